"""Curation of examples: deduplication, sampling, splits, and removal of training rows that contaminate an evaluation.

Samples and splits depend on the seed and on the order of the examples only.
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b

import numpy as np
import orjson

from lotune.data.disk_list import select
from lotune.data.examples import Example
from lotune.data.settings import Stratify
from lotune.errors import DataError, SettingsError


@dataclass(frozen=True)
class Contamination:
    """Overlap of the training rows with one evaluation set, in rows.

    `exact` training rows have a prompt of the set, `normalised` ones only have one of its `forms` in common, and
    `same_source` ones have neither, but are made from the same article as a row of the set. `seen` is the number of
    rows of the set that were in the training data by prompt or form, and `rows` is the size of the set.
    """

    exact: int
    normalised: int
    seen: int
    rows: int
    same_source: int = 0


@dataclass(frozen=True)
class ContaminationReport:
    """Contamination by evaluation set, and the number of training rows removed.

    A training row in two sets counts in both of them, but is removed once.
    """

    sets: dict[str, Contamination]
    removed: int


@dataclass(frozen=True)
class DataCounts:
    """Number of training rows after each step of curation, as stored in data/counts.json.

    `read` rows were read and `malformed` ones could not be (`malformed_rows`: "file:line reason"; those of a validation
    file are included). Of the rows read, `duplicates` were removed, `not_sampled` ones left out of the sample,
    `validation` and `test` ones split off, and `overlap.removed` ones removed as contaminated. `kept` rows remain to
    train on, `kinds` of them by category.

    `validation_removed` validation rows were removed because the test has the same prompt: validation chooses the
    checkpoint, so these rows would let the test choose it.
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
    """Return the examples without exact duplicates, and the number of duplicates removed.

    Duplicates have the same prompt, target and references; the first one remains. Memory: a digest of 16 bytes per
    example, at which two of 10⁹ different examples collide with a chance below 10⁻²⁰.
    """
    # Sorting an array of digests takes 16 bytes and an index per row; a set of digests would take about 100 bytes.
    buffer = bytearray()
    for example in examples:
        key = orjson.dumps([example.prompt, example.target, example.references])
        buffer += blake2b(key, digest_size=16).digest()
    digests = np.frombuffer(buffer, dtype=np.uint64).reshape(-1, 2)  # (examples, 2)
    order = np.lexsort(digests.T)  # (examples,); stable, so the first of equal ones comes first
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    remaining = np.sort(order[is_first])  # (remaining,) indices in the original order
    return select(examples, remaining), len(examples) - len(remaining)


def sample_examples(
    examples: Sequence[Example],
    rows: int | None,
    seed: int,
    stratify: Stratify = "none",
    kinds: Collection[str] | None = None,
) -> Sequence[Example]:
    """Sample examples without replacement; return them in their original order.

    All examples are returned if `rows` is None or larger than their number. With `kinds`, only rows of these kinds are
    sampled. `stratify="none"` gives every row the same probability, and with the same seed a larger sample contains the
    smaller one. `stratify="equal"` samples the same number of each kind (see `stratified_quotas`); if `rows` is None,
    as many of each as the rarest kind has. `stratify="proportional"` samples of each kind as large a part as of all.

    Raises: DataError for a kind in `kinds` that no row has; SettingsError unless `stratify` is none if no row has a
    kind.
    """
    if kinds is None and stratify != "equal" and (rows is None or rows >= len(examples)):
        return examples
    # Interned, as the examples of a DiskList are decoded one by one, each with a string of its own.
    needs_kinds = kinds is not None or stratify != "none"
    kind_of = [sys.intern(example.category) for example in examples] if needs_kinds else []
    indices = np.arange(len(examples))  # (examples,)
    if kinds is not None:
        indices = np.flatnonzero([kind in kinds for kind in kind_of])  # (examples of these kinds,)
        unknown = sorted(set(kinds) - set(kind_of))
        if unknown:
            present = ", ".join(sorted(set(kind_of)))
            raise DataError("sample", f"no rows of kind {', '.join(unknown)}", f"kinds among: {present}")
    available = Counter(kind_of[index] for index in indices) if kind_of else Counter()
    if stratify != "none" and not any(available):
        raise SettingsError("data.sample.stratify", f"is {stratify}, but no row has a kind", "none, or rows with kinds")
    if stratify == "equal" and rows is None:
        rows = min(available.values()) * len(available)
    if rows is None or rows >= len(indices):
        return select(examples, indices)
    shuffled = indices[_shuffled(len(indices), f"sample:{seed}")]
    if stratify == "none":
        return select(examples, np.sort(shuffled[:rows]))
    remaining = (stratified_quotas if stratify == "equal" else proportional_quotas)(available, rows)
    sampled = []
    for index in shuffled:
        kind = kind_of[index]
        if remaining[kind]:
            remaining[kind] -= 1
            sampled.append(index)
    return select(examples, sorted(sampled))


def stratified_quotas(available: Mapping[str, int], rows: int) -> dict[str, int]:
    """Return the number of rows to sample of each kind, as equal as the available rows allow, `rows` in total.

    A kind with fewer rows contributes all of them, and the other kinds divide the difference.

    >>> stratified_quotas({"sum": 100, "root": 3, "mean": 100}, 24)
    {'root': 3, 'mean': 10, 'sum': 11}
    """
    quotas: dict[str, int] = {}
    # Rarest first: what a kind cannot contribute is divided among those after it.
    for kind, count in sorted(available.items(), key=lambda item: (item[1], item[0])):
        quota = (rows - sum(quotas.values())) // (len(available) - len(quotas))
        quotas[kind] = min(count, quota)
    return quotas


def proportional_quotas(available: Mapping[str, int], rows: int) -> dict[str, int]:
    """Return the number of rows to sample of each kind, in proportion to the available ones, `rows` in total.

    The fractions that are left over go to the kinds with the largest ones (largest remainder method).

    >>> proportional_quotas({"0": 37, "1": 63}, 10), proportional_quotas({"a": 1, "b": 1, "c": 2}, 3)
    ({'0': 4, '1': 6}, {'a': 1, 'b': 1, 'c': 1})
    """
    total = sum(available.values())
    quotas = {kind: rows * count // total for kind, count in available.items()}
    remainders = sorted(available, key=lambda kind: (-(rows * available[kind] % total), kind))
    for kind in remainders[: rows - sum(quotas.values())]:
        quotas[kind] += 1
    return quotas


def split(
    examples: Sequence[Example], rows: int | Callable[[int], int], seed: int, name: str = "validation"
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split `rows` examples off for an evaluation set; return the training examples and those of the set.

    `rows` may be a function of the number of examples that are no augmented copies.

    Both are in the original order. Examples of one source stay on one side: whole sources are drawn until there are
    enough rows, and what is left of the last one stays among the training examples, from which `remove_contaminated`
    takes it. Augmented copies are for training only: they come last, and are dropped if their original is in the
    evaluation set. Two examples with the same prompt can end up on different sides; `remove_contaminated` finds them.

    Raises: DataError if no example would remain to train on.
    """
    is_copy, sources = np.zeros(len(examples), dtype=bool), dict[int, str]()
    for index, example in enumerate(examples):  # one pass, as they may lie on the disk
        is_copy[index] = bool(example.augmented_from)
        if example.source:
            sources[index] = example.source
    originals = np.flatnonzero(~is_copy)  # (originals,)
    if callable(rows):
        rows = rows(len(originals))
    if rows >= len(originals):
        raise DataError(
            f"data.{name}_rows",
            f"{rows} rows split off {len(originals)} leave none to train on",
            f"at most {max(len(originals) - 1, 0)}",
            f"lower it, or name a file with data.{name}",
        )
    # Another text than `sample_examples` uses: with the same one, a sample would not be random in respect of the split.
    order = _shuffled(len(originals), f"split:{seed}")
    if sources:
        order = _by_source(order, [sources.get(int(index), "") for index in originals])
    evaluation, remaining = np.sort(originals[order[:rows]]), np.sort(originals[order[rows:]])
    train = select(examples, np.concatenate([remaining, np.flatnonzero(is_copy)]))
    return drop_orphaned_copies(train, select(examples, remaining)), select(examples, evaluation)


def _by_source(order: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Return an order (n,) in which the rows of a source follow each other, each source where its first row was.

    `sources` (n,) has the source of each row, empty for a row without one.
    """
    places: dict[str | int, int] = {}
    for place, index in enumerate(order):
        places.setdefault(sources[index] or int(index), place)
    return np.array(sorted(order, key=lambda index: places[sources[index] or int(index)]), dtype=np.int64)


def drop_orphaned_copies(examples: Sequence[Example], originals: Iterable[Example]) -> Sequence[Example]:
    """Return the examples without augmented copies of rows that are not among `originals`."""
    copied = {example.augmented_from for example in examples if example.augmented_from}
    if not copied:
        return examples
    present = {example.id for example in originals if example.id in copied} | {""}  # "" marks an original
    return select(examples, (index for index, example in enumerate(examples) if example.augmented_from in present))


def remove_contaminated(
    train: Sequence[Example], evaluation: Mapping[str, Sequence[Example]]
) -> tuple[Sequence[Example], ContaminationReport]:
    """Return the training examples whose prompt and source are in no evaluation set, and a report by set.

    Prompts are compared verbatim and by their `forms`. Of a conversation, the text before each answer in the loss is
    compared.
    """
    eval_prompts = {name: {questions(row)[-1] for row in examples} for name, examples in evaluation.items()}
    eval_forms = {name: set().union(*map(forms, examples)) for name, examples in evaluation.items()}
    exact: Counter[str] = Counter()
    normalised: Counter[str] = Counter()
    same_source: Counter[str] = Counter()
    sources = {name: {row.source for row in rows} - {""} for name, rows in evaluation.items()}
    removed_forms: set[Form] = set()
    remaining = array("q")
    for index, example in enumerate(train):
        # Equal prompts have equal forms, so the forms alone tell whether a row is removed.
        example_forms = forms(example)
        sets = [name for name in evaluation if not example_forms.isdisjoint(eval_forms[name])]
        related = [name for name in evaluation if example.source in sources[name] and name not in sets]
        same_source.update(related)
        if not sets:
            if not related:
                remaining.append(index)
            continue
        removed_forms |= example_forms
        for name in sets:
            is_exact = not eval_prompts[name].isdisjoint(questions(example))
            (exact if is_exact else normalised)[name] += 1
    by_set = {}
    for name, rows in evaluation.items():
        seen = sum(not removed_forms.isdisjoint(forms(row)) for row in rows)
        by_set[name] = Contamination(exact[name], normalised[name], seen, len(rows), same_source[name])
    return select(train, remaining), ContaminationReport(by_set, len(train) - len(remaining))


def remove_shared_passages(examples: Sequence[Example], evaluation: Sequence[Example]) -> Sequence[Example]:
    """Return the examples whose passage is in no evaluation example; those without a passage remain."""
    passages = {normalise_prompt(example.prompt_parts[1]) for example in evaluation if example.prompt_parts}
    if not passages:
        return examples
    indices = array("q")
    for index, example in enumerate(examples):
        if example.prompt_parts is None or normalise_prompt(example.prompt_parts[1]) not in passages:
            indices.append(index)
    return select(examples, indices)


Form = str | tuple[str, tuple[str, ...]]
"""Key under which two wordings of a question are the same: the normalised prompt, or a choice's stem and options."""


def forms(example: Example) -> set[Form]:
    """Return the forms of an example: each of its normalised prompts, and the stem and options of a choice.

    The form of a plain text, which has no prompt, is the text.

    The options are normalised and sorted, so that their order and their letters do not matter.

    >>> first = Example("1", "Peak? A.Etna B.K2", "B", choices=("Etna", "K2"), stem="Peak?")
    >>> second = Example("2", "Peak? A.K2 B.Etna", "A", choices=("K2", "Etna"), stem="Peak?")
    >>> forms(first) & forms(second)
    {('Peak?', ('Etna', 'K2'))}
    """
    prompts: set[Form] = {normalise_prompt(prompt) for prompt in questions(example)}
    if not example.stem:
        return prompts
    options = tuple(sorted({normalise_prompt(option) for option in example.choices}))
    return {*prompts, (normalise_prompt(example.stem), options)}


def questions(example: Example) -> tuple[str, ...]:
    """Return the text before each answer in the loss; of a plain text, which has no prompt, the text itself.

    >>> questions(Example("1", "1+1=", "2")), questions(Example("2", "", "A text."))
    (('1+1=',), ('A text.',))
    """
    # All plain texts have the same prompt, which does not make them the same.
    return tuple(prompt if prompt.strip() else example.target for prompt in example.trained_prompts)


def normalise_prompt(text: str) -> str:
    r"""Return a text in NFKC, without format characters, and with each run of whitespace as one space.

    Format characters (category Cf) include zero-width characters, soft hyphens, byte-order marks and bidirectional
    marks.

    >>> normalise_prompt("  计算　１２ +\n 3\u200b ")
    '计算 12 + 3'
    """
    text = _collapse_whitespace(unicodedata.normalize("NFKC", text))
    if text.isprintable():  # no character of category Cf is printable, and this is much faster than the pattern
        return text
    # A format character between a letter and a combining mark keeps NFKC from composing them, hence once more.
    return _collapse_whitespace(unicodedata.normalize("NFKC", _format_characters().sub("", text)))


def _collapse_whitespace(text: str) -> str:
    return " ".join(text.split())


@cache
def _format_characters() -> re.Pattern[str]:
    # Python's re has no \p{Cf}. Built on first use: going through all of Unicode would delay the import.
    characters = (chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf")
    return re.compile(f"[{''.join(characters)}]+")


def count_kinds(examples: Iterable[Example]) -> dict[str, int]:
    """Return the number of examples of each kind, sorted by name."""
    return dict(sorted(Counter(example.category for example in examples).items()))


def _shuffled(count: int, seed: str) -> np.ndarray:
    """Return the numbers from 0 to `count` in an order that follows from the seed, (count,) int64."""
    # Python promises that the sequence of `random()` stays the same in later versions, but not that of `shuffle`.
    generator = random.Random(seed)
    keys = np.fromiter((generator.random() for _ in range(count)), dtype=np.float64, count=count)
    return np.argsort(keys, kind="stable")
