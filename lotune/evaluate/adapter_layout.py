"""What an adapter consists of: the rank of each module that it changes, and its number of parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lotune.model.shapes import ModelShape


@dataclass(frozen=True)
class AdapterLayout:
    """Rank by full name of each adapted module, and the parameters of the whole adapter.

    `ranks` is empty for a method without ranks, and `count` is None where it cannot be told.
    """

    ranks: Mapping[str, int]
    count: int | None

    @property
    def rank_values(self) -> tuple[int, ...]:
        """The different ranks, in ascending order."""
        return tuple(sorted(set(self.ranks.values())))


def lora_layout(shape: ModelShape, target_modules: str | Sequence[str], rank: int) -> AdapterLayout:
    """Return the layout of plain LoRA of one rank.

    Raises: ModelError if `target_modules` do not fit the model.
    """
    return layout_of_ranks(shape, dict.fromkeys(shape.targets(target_modules), rank))


def layout_of_ranks(shape: ModelShape, ranks: Mapping[str, int], extra: int = 0) -> AdapterLayout:
    """Return the layout of LoRA with a rank for each module, and `extra` parameters besides."""
    return AdapterLayout(ranks, sum(rank * sum(shape.linear[name]) for name, rank in ranks.items()) + extra)


def kind_of(module: str) -> str:
    """Return the full name of a module without the numbers of layers, which equal modules of all layers share.

    >>> kind_of("model.layers.31.self_attn.q_proj")
    'model.layers.self_attn.q_proj'
    """
    return ".".join(part for part in module.split(".") if not part.isdigit())


def short_kinds(modules: Iterable[str], among: Iterable[str]) -> dict[str, str]:
    """Return the kinds of modules by the shortest end of their name that no other kind `among` these modules has.

    >>> names = [f"h.{layer}.{part}" for layer in range(2) for part in ("attn.c_proj", "mlp.c_proj", "attn.c_attn")]
    >>> short_kinds(names[1:3], names)
    {'mlp.c_proj': 'h.mlp.c_proj', 'c_attn': 'h.attn.c_attn'}
    """
    known = {kind_of(name) for name in among}
    endings = Counter(ending for kind in known for ending in _endings(kind))
    kinds = dict.fromkeys(map(kind_of, modules))
    return {next((end for end in _endings(kind) if endings[end] == 1), kind): kind for kind in kinds}


def _endings(kind: str) -> list[str]:
    """Return the ends of a dotted name, the shortest first.

    >>> _endings("attn.c_proj")
    ['c_proj', 'attn.c_proj']
    """
    parts = kind.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def describe_modules(modules: Iterable[str], among: Iterable[str]) -> list[str]:
    """Return the kinds of some modules by their short names, with the number of layers where some are left out.

    >>> names = [f"layers.{layer}.{part}_proj" for layer in range(3) for part in "qv"]
    >>> describe_modules(names[:5], names)
    ['q_proj', 'v_proj in 2 of 3 layers']
    """
    chosen = list(modules)
    existing = dict.fromkeys([*among, *chosen])
    have, exist = Counter(map(kind_of, chosen)), Counter(map(kind_of, existing))
    return [
        short if have[kind] == exist[kind] else f"{short} in {have[kind]} of {exist[kind]} layers"
        for short, kind in short_kinds(chosen, existing).items()
    ]
