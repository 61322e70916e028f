"""Figures over many verdicts: pure functions that any task's `metrics` may be made of."""

from __future__ import annotations

from collections.abc import Sequence

from lotune.errors import DataError
from lotune.tasks.task import Judged


def accuracy(judged: Sequence[Judged]) -> float:
    """The share, 0 to 1, of right verdicts among those that can be judged.

    Raises: DataError where none can be judged.

    >>> accuracy([Judged("3", "3", True), Judged("4", "3", False), Judged(None, "yes", None)])
    0.5
    """
    verdicts = [one.right for one in judged if one.right is not None]
    if not verdicts:
        raise DataError("evaluation", f"none of {len(judged)} rows has a key that can be judged")
    return sum(verdicts) / len(verdicts)


def unjudgeable(judged: Sequence[Judged]) -> int:
    """How many rows have a key that cannot be judged; they are left out of the accuracy.

    >>> unjudgeable([Judged(None, "yes", None), Judged("3", "3", True)])
    1
    """
    return sum(one.right is None for one in judged)


def mean_score(judged: Sequence[Judged], name: str) -> float:
    """The mean of one per-example figure over the rows that can be judged, in the figure's own unit.

    Raises: DataError where none can be judged, or one lacks the figure.

    >>> mean_score([Judged("a", "a", True, {"f1": 100.0}), Judged("b", "a", False, {"f1": 0.0})], "f1")
    50.0
    """
    scores = [one.scores.get(name) for one in judged if one.right is not None]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        raise DataError("evaluation", f"{len(scores) - len(known)} of {len(scores)} verdicts have no {name}")
    if not known:
        raise DataError("evaluation", f"none of {len(judged)} rows has a key that can be judged")
    return sum(known) / len(known)
