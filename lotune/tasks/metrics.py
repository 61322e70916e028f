"""Figures over many verdicts: pure functions that any task's `metrics` may be made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

from lotune.errors import DataError
from lotune.tasks.task import Score


def accuracy(judged: Sequence[Score]) -> float:
    """The share, 0 to 1, of right verdicts among those that can be judged.

    Raises: DataError where none can be judged.

    >>> accuracy([Score("3", "3", True), Score("4", "3", False), Score(None, "yes", None)])
    0.5
    """
    verdicts = [one.correct for one in judged if one.correct is not None]
    if not verdicts:
        raise DataError("evaluation", f"none of {len(judged)} rows has a key that can be judged")
    return sum(verdicts) / len(verdicts)


def num_without_reference(judged: Sequence[Score]) -> int:
    """How many rows have a key that cannot be judged; they are left out of the accuracy.

    >>> num_without_reference([Score(None, "yes", None), Score("3", "3", True)])
    1
    """
    return sum(one.correct is None for one in judged)


def mean_score(judged: Sequence[Score], name: str) -> float:
    """The mean of one per-example figure over the rows that can be judged, in the figure's own unit.

    Raises: DataError where none can be judged, or one lacks the figure.

    >>> mean_score([Score("a", "a", True, {"f1": 100.0}), Score("b", "a", False, {"f1": 0.0})], "f1")
    50.0
    """
    scores = [one.scores.get(name) for one in judged if one.correct is not None]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        raise DataError("evaluation", f"{len(scores) - len(known)} of {len(scores)} verdicts have no {name}")
    if not known:
        raise DataError("evaluation", f"none of {len(judged)} rows has a key that can be judged")
    return sum(known) / len(known)


def balanced_accuracy(judged: Sequence[Score]) -> float:
    """The mean, 0 to 1, of each key's share of right verdicts; an answer that names no label is wrong.

    >>> balanced_accuracy([Score("1", "1", True), Score("1", "1", True), Score("1", "0", False)])
    0.5
    """
    right, all_of = _by_key(judged)
    return sum(right[key] / count for key, count in all_of.items()) / len(all_of)


def f1(judged: Sequence[Score], positive: str) -> float:
    """F1, 0 to 1, of one label: the harmonic mean of precision and recall; 0 where it is neither asked nor answered.

    >>> f1([Score("1", "1", True), Score("1", "0", False), Score("0", "1", False)], "1")
    0.5
    """
    pairs = [(one.extracted, one.reference) for one in judged if one.correct is not None]
    hits = sum(read == key == positive for read, key in pairs)
    named = sum((read == positive) + (key == positive) for read, key in pairs)
    return 2 * hits / named if named else 0.0


def matthews(judged: Sequence[Score]) -> float:
    """Matthews' correlation of keys and answers, -1 to 1, for any number of labels (Gorodkin, 2004).

    An answer that names no label is a label of its own; where all keys or all answers are alike the figure is 0.

    >>> round(matthews([Score("1", "1", True), Score("1", "0", False), Score("0", "0", True)]), 4)
    0.5
    """
    pairs = [(one.extracted, one.reference) for one in judged if one.correct is not None]
    asked, named = Counter(key for _, key in pairs), Counter(read for read, _ in pairs)
    right, total = sum(read == key for read, key in pairs), len(pairs)
    chance = sum(count * named[key] for key, count in asked.items())
    spread = (total**2 - sum(n * n for n in asked.values())) * (total**2 - sum(n * n for n in named.values()))
    return (right * total - chance) / sqrt(spread) if spread else 0.0


def rouge_l(answer: Sequence[str], reference: Sequence[str], beta: float = 1.0) -> float:
    """ROUGE-L, 0 to 1, of two texts cut into segments: F of the longest common subsequence (Lin, 2004).

    F = (1 + β²)RP / (R + β²P), R its share of the reference, P that of the answer; 0 where either is empty.

    >>> rouge_l("羊侃的字是公祖。", "羊侃的字是祖忻。")
    0.875
    """
    common = longest_common_subsequence(answer, reference)
    if not common:
        return 0.0
    recall, precision = common / len(reference), common / len(answer)
    return (1 + beta**2) * recall * precision / (recall + beta**2 * precision)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest sequence that both have in this order, with anything between its elements.

    >>> longest_common_subsequence("abcbdab", "bdcaba")
    4
    """
    before = [0] * (len(second) + 1)
    for element in first:
        lengths = [0]
        for column, other in enumerate(second):
            lengths.append(before[column] + 1 if element == other else max(before[column + 1], lengths[column]))
        before = lengths
    return before[-1]


def _by_key(judged: Sequence[Score]) -> tuple[Counter[str | None], Counter[str | None]]:
    """Right verdicts and all verdicts of each key. Raises: DataError where none can be judged."""
    judgeable = [one for one in judged if one.correct is not None]
    if not judgeable:
        raise DataError("evaluation", f"none of {len(judged)} rows has a key that can be judged")
    return Counter(one.reference for one in judgeable if one.correct), Counter(one.reference for one in judgeable)
