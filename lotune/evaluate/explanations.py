"""Which ranks and sets of layers give an adapter a number of parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from lotune.evaluate.adapter_layout import kind_of, short_kinds
from lotune.model.shapes import ModelShape

MAX_RANK = 1024
"""Largest rank that is taken into account."""
MAX_KINDS = 10
"""Number of kinds of layers up to which all sets of them are tried; of more, only single ones and all together."""
SHOWN = 12
"""Number of configurations that are listed."""


@dataclass(frozen=True)
class PossibleConfiguration:
    """LoRA of one rank on all layers of some kinds, and its number of parameters."""

    rank: int
    targets: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class Explanation:
    """The configurations with a number of parameters, the simplest first; `more` of them are not listed."""

    of: str
    """Whose number it is: claimed or measured."""
    parameters: str
    """The number, or the range that a rounded ratio leaves open."""
    configurations: tuple[PossibleConfiguration, ...]
    more: int


def explain(shape: ModelShape, of: str, low: int, high: int | None = None) -> Explanation:
    """Return the configurations of LoRA with a number of parameters from `low` to `high`.

    Powers of two come before other ranks, then few kinds of layers before many, then layers of one part (attention or
    feed-forward) before those of several, then small ranks before large ones.

    >>> from lotune.model.catalogue import CATALOGUE
    >>> found = explain(CATALOGUE["internlm-7b"].shape, "claimed", 4_194_304)
    >>> found.configurations[0].rank, found.configurations[0].targets, len(found.configurations) + found.more
    (16, ('q_proj',), 11)
    """
    high = low if high is None else high
    parts = {short: kind.rpartition(".")[0] for short, kind in short_kinds(shape.linear, shape.linear).items()}
    possible = sorted(_possible(shape, low, high), key=partial(_complexity, parts))
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return Explanation(of, number, tuple(possible[:SHOWN]), max(0, len(possible) - SHOWN))


def per_rank(shape: ModelShape) -> dict[str, int]:
    """Return the number of parameters of LoRA of rank 1 on all layers of each kind, by short name."""
    adaptable = shape.targets("all-linear")
    sums: dict[str, int] = defaultdict(int)
    for name in adaptable:
        sums[kind_of(name)] += sum(shape.linear[name])
    return {short: sums[kind] for short, kind in short_kinds(adaptable, shape.linear).items()}


def _possible(shape: ModelShape, low: int, high: int) -> Iterator[PossibleConfiguration]:
    each = per_rank(shape)
    for kinds in _sets(list(each)):
        parameters = sum(each[kind] for kind in kinds)
        for rank in range(max(1, -(-low // parameters)), min(MAX_RANK, high // parameters) + 1):
            yield PossibleConfiguration(rank, kinds, rank * parameters)


def _sets(kinds: Sequence[str]) -> Iterator[tuple[str, ...]]:
    sizes = range(1, len(kinds) + 1) if len(kinds) <= MAX_KINDS else (1, len(kinds))
    for size in sizes:
        yield from combinations(kinds, size)


def _complexity(parts: Mapping[str, str], configuration: PossibleConfiguration) -> tuple[bool, int, int, int]:
    rank, targets = configuration.rank, configuration.targets
    return rank & (rank - 1) != 0, len(targets), len({parts[target] for target in targets}), rank
