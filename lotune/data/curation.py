"""Honest rows: no duplicates, a draw and a split that a seed fixes, and no question of an evaluation set in training.

All draws depend on the seed and on the order of the examples only: they use `random.Random(text).random()`, whose
sequence Python keeps the same on all machines and in all versions.
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Literal

import numpy as np
import orjson

from lotune.data.disk_list import select
from lotune.data.examples import Example
from lotune.errors import DataError, SettingsError


@dataclass(frozen=True)
class Contamination:
    """How training met one evaluation set.

    `exact` training rows have a prompt of the set, `normalised` ones only one of its `forms`; `rows` is the size of the
    set and `seen` how many of its rows stood in training, one way or the other.
    """

    exact: int
    normalised: int
    seen: int
    rows: int


@dataclass(frozen=True)
class ContaminationReport:
    """The overlap by evaluation set, and how many training rows left (one that meets two sets counts in both)."""

    sets: dict[str, Contamination]
    removed: int


@dataclass(frozen=True)
class DataCounts:
    """What became of the rows of a training file, as data/counts.json holds it.

    `read` rows could be read and `malformed` ones could not (`malformed_rows`: "file:line reason"); of those read,
    `duplicates` were removed, `not_sampled` ones not sampled, `validation` and `test` ones split off, `overlap.removed`
    ones taken away because an evaluation set asks them, and `kept` ones are trained on, `kinds` of them by kind.
    Malformed rows of a validation file are counted too. `validation_removed` validation rows were taken away because
    the test asks them: checkpoints are chosen by validation, which would choose by the test.
    """

    read: int
    kept: int
    malformed: int = 0
    malformed_rows: tuple[str, ...] = ()
    duplicates: int = 0
    not_sampled: int = 0
    validation: int = 0
    validation_removed: int = 0
    test: int = 0
    overlap: ContaminationReport = field(default_factory=lambda: ContaminationReport({}, 0))
    kinds: dict[str, int] = field(default_factory=dict)


def remove_duplicates(examples: Sequence[Example]) -> tuple[Sequence[Example], int]:
    """The examples without exact repetitions of prompt, target and answers (the first stays), and how many went.

    Only a digest of 16 bytes of each is held.
    """
    held = bytearray()
    for example in examples:
        key = orjson.dumps([example.prompt, example.target, example.references])
        held += blake2b(key, digest_size=16).digest()
    digests = np.frombuffer(held, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort(digests.T)  # stable: of equal ones the first comes first
    new = np.ones(len(order), dtype=bool)
    new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    first = np.sort(order[new])
    return select(examples, first), len(examples) - len(first)


def sample_examples(
    examples: Sequence[Example],
    rows: int | None,
    seed: int,
    stratify: Literal["none", "equal"] = "none",
    kinds: Collection[str] | None = None,
) -> Sequence[Example]:
    """Draw examples without replacement, in their order; all of them where `rows` is None or larger.

    With `stratify="none"` every row has the same probability. "equal" draws the same number of each kind: a kind with
    fewer rows gives all of them, the other kinds divide the rest, and numbers differ by one where they do not divide.
    Where `rows` is None, "equal" draws as many of each kind as the rarest has. With `kinds`, only rows of these kinds
    are drawn. With the same seed a larger unstratified draw holds the smaller one.

    Raises: DataError for a kind in `kinds` that no row has; SettingsError for "equal" where no row has a kind.
    """
    if kinds is None and stratify == "none" and (rows is None or rows >= len(examples)):
        return examples
    kind_of = [sys.intern(example.category) for example in examples] if kinds is not None or stratify == "equal" else []
    places = np.arange(len(examples))
    if kinds is not None:
        places = np.flatnonzero([kind in kinds for kind in kind_of])
        unknown = sorted(set(kinds) - set(kind_of))
        if unknown:
            there = ", ".join(sorted(set(kind_of)))
            raise DataError("sample", f"no rows of kind {', '.join(unknown)}", f"kinds among: {there}")
    available = Counter(kind_of[place] for place in places) if kind_of else Counter()
    if stratify == "equal":
        if not any(available):
            raise SettingsError("data.sample.stratify", "is equal, but no row has a kind", "none, or rows with kinds")
        rows = min(available.values()) * len(available) if rows is None else rows
    if rows is None or rows >= len(places):
        return select(examples, places)
    drawn = places[_shuffled(len(places), f"sample:{seed}")]
    if stratify == "none":
        return select(examples, np.sort(drawn[:rows]))
    left = stratified_quotas(available, rows)
    chosen = []
    for place in drawn:
        kind = kind_of[place]
        if left[kind]:
            left[kind] -= 1
            chosen.append(place)
    return select(examples, sorted(chosen))


def stratified_quotas(available: Mapping[str, int], rows: int) -> dict[str, int]:
    """How many rows of each kind an equal draw takes: as equal as the available ones allow, `rows` together if they do.

    >>> stratified_quotas({"sum": 100, "root": 3, "mean": 100}, 24)
    {'root': 3, 'mean': 10, 'sum': 11}
    """
    quotas: dict[str, int] = {}
    for kind, count in sorted(available.items(), key=lambda item: (item[1], item[0])):
        share = (rows - sum(quotas.values())) // (len(available) - len(quotas))
        quotas[kind] = min(count, share)
    return quotas


def split(
    examples: Sequence[Example], rows: int, seed: int, name: str = "validation"
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Training examples and those of an evaluation set; every example is in one of the two.

    Both are in the order given, augmented copies last: they are trained on only, and go where their row is taken out.
    Two examples with the same prompt can come to different sides: `overlap` finds them.
    Raises: DataError where no example would be left to train on.
    """
    copied = np.fromiter((bool(one.augmented_from) for one in examples), dtype=bool, count=len(examples))
    rest = np.flatnonzero(~copied)
    if rows >= len(rest):
        raise DataError(
            f"data.{name}_rows",
            f"{rows} rows split off {len(rest)} leave none to train on",
            f"at most {max(len(rest) - 1, 0)}",
            f"lower it, or name a file with data.{name}",
        )
    order = _shuffled(len(rest), f"split:{seed}")
    chosen, left = np.sort(rest[order[:rows]]), np.sort(rest[order[rows:]])
    train = select(examples, np.concatenate([left, np.flatnonzero(copied)]))
    return drop_orphaned_copies(train, select(examples, left)), select(examples, chosen)


def drop_orphaned_copies(examples: Sequence[Example], originals: Iterable[Example]) -> Sequence[Example]:
    """The examples without those that are copies of a row that is not among `originals`."""
    copies = {example.augmented_from for example in examples if example.augmented_from}
    if not copies:
        return examples
    there = {example.id for example in originals if example.id in copies}
    return select(
        examples, (p for p, one in enumerate(examples) if not one.augmented_from or one.augmented_from in there)
    )


def remove_contaminated(
    train: Sequence[Example], evaluation: Mapping[str, Sequence[Example]]
) -> tuple[Sequence[Example], ContaminationReport]:
    """The training examples whose prompt is in no evaluation set, and what was found, by set.

    Prompts are compared as they are, then by their `forms`; of a conversation, what stands before each answer that is
    trained on.
    """
    prompts = {name: {example.prompt for example in examples} for name, examples in evaluation.items()}
    known = {name: set().union(*map(forms, examples)) for name, examples in evaluation.items()}
    exact: Counter[str] = Counter()
    close: Counter[str] = Counter()
    met: set[Form] = set()
    kept = array("q")
    for place, example in enumerate(train):
        asked = set(example.trained_prompts)
        close_to = forms(example)
        sets = [name for name in evaluation if not close_to.isdisjoint(known[name])]
        if not sets:
            kept.append(place)
            continue
        met |= close_to
        for name in sets:
            (close if asked.isdisjoint(prompts[name]) else exact)[name] += 1
    report = {
        name: Contamination(exact[name], close[name], sum(not met.isdisjoint(forms(row)) for row in rows), len(rows))
        for name, rows in evaluation.items()
    }
    return select(train, kept), ContaminationReport(report, len(train) - len(kept))


Form = str | tuple[str, tuple[str, ...]]
"""What two wordings of the same question share: the normalised prompt, or the stem and the options of a choice."""


def forms(example: Example) -> set[Form]:
    """Return the forms of an example: each normalised prompt that it is trained on, and its question with options.

    The options of a choice are normalised and sorted, so that their order and their letters do not count.

    >>> one = Example("1", "Peak? A.Etna B.K2", "B", choices=("Etna", "K2"), stem="Peak?")
    >>> other = Example("2", "Peak? A.K2 B.Etna", "A", choices=("K2", "Etna"), stem="Peak?")
    >>> forms(one) & forms(other)
    {('Peak?', ('Etna', 'K2'))}
    """
    found: set[Form] = {normalise_prompt(prompt) for prompt in example.trained_prompts}
    if example.stem:
        found.add(
            (normalise_prompt(example.stem), tuple(sorted({normalise_prompt(option) for option in example.choices})))
        )
    return found


def normalise_prompt(text: str) -> str:
    r"""Return a text after NFKC, without format characters, with each run of blanks and line ends as one blank.

    Format characters (category Cf) are zero-width characters, soft hyphens, byte-order marks and bidirectional marks.

    >>> normalise_prompt("  计算　１２ +\n 3\u200b ")
    '计算 12 + 3'
    """
    text = _collapsed(unicodedata.normalize("NFKC", text))
    if text.isprintable():  # the quick way to find that there is no format character
        return text
    return _collapsed(unicodedata.normalize("NFKC", _format_characters().sub("", text)))


def _collapsed(text: str) -> str:
    return " ".join(text.split())


@cache
def _format_characters() -> re.Pattern[str]:
    found = (chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf")
    return re.compile(f"[{''.join(found)}]+")


def count_kinds(examples: Iterable[Example]) -> dict[str, int]:
    """The number of examples of each kind, by name."""
    return dict(sorted(Counter(example.category for example in examples).items()))


def _shuffled(count: int, seed: str) -> np.ndarray:
    """The numbers from 0 in an order that the seed fixes."""
    generator = random.Random(seed)
    keys = np.fromiter((generator.random() for _ in range(count)), dtype=np.float64, count=count)
    return np.argsort(keys, kind="stable")
