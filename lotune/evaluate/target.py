"""Measurement of a target metric from the scores of the same rows before and after tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lotune.errors import DataError
from lotune.evaluate.scorecard import CategoryResult, Target
from lotune.evaluate.statistics import (
    Interval,
    PairedTest,
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    paired_permutation_test,
    wilson,
)
from lotune.tasks.task import Score, Task


class ScoredExample(NamedTuple):
    """The score of one row, with the row's id and category."""

    id: str
    category: str
    score: Score


def measure_target(task: Task, base: Sequence[ScoredExample], tuned: Sequence[ScoredExample]) -> Target:
    """Return the figures of the task's main metric from the scores of the same rows before and after tuning.

    An accuracy of verdicts is 0 to 1 (McNemar's test), the mean of a per-example score 0 to 100 (sign-flip test). Rows
    that cannot be judged are only counted.

    Raises: DataError if the two sets are not of the same rows, or no row can be judged.
    """
    score = task.score_name_by_metric.get(task.metric)
    pairs = _pairs(base, tuned, score)
    judged = [pair for _, pair in pairs if pair is not None]
    if not judged:
        raise DataError("evaluation", f"none of {len(pairs)} rows has a reference that can be scored")
    before, after = [old for old, _ in judged], [new for _, new in judged]
    test = _paired_test(before, after, score)
    return Target(
        task=task.name,
        metric=task.metric,
        value=sum(after) / len(after),
        base_value=sum(before) / len(before),
        interval=_interval(after, score),
        base_interval=_interval(before, score),
        n=len(judged),
        unjudgeable=len(pairs) - len(judged),
        by_category=_by_category(pairs, score),
        gained=test.gained,
        lost=test.lost,
        # One-sided, because the contest rewards a model that became better, not one that merely changed.
        p_value=test.p_better,
        better=test.better,
        difference_interval=bootstrap_difference(before, after) if score else None,
        scorer=task.scorer,
        score=score,
    )


_Pair = tuple[float, float]
"""The values of a row before and after tuning."""


def _pairs(
    base: Sequence[ScoredExample], tuned: Sequence[ScoredExample], score: str | None
) -> list[tuple[str, _Pair | None]]:
    """Return the category of each row with its values, None for a row that cannot be judged."""
    before: Mapping[str, Score] = {example.id: example.score for example in base}
    after_ids = {example.id for example in tuned}
    # A row that occurs twice would count twice, and only the lengths show it: the sets of ids stay equal.
    if set(before) != after_ids or not len(before) == len(base) == len(tuned):
        unpaired = len(set(before) ^ after_ids)
        counts = f"{len(base)} verdicts before and {len(tuned)} after, {unpaired} of them on other rows"
        raise DataError("evaluation", counts, "one verdict per row, the same rows before and after")
    return [(example.category, _pair(before[example.id], example.score, score)) for example in tuned]


def _pair(before: Score, after: Score, score: str | None) -> _Pair | None:
    # A row that cannot be judged on one side is left out on both, so that both figures cover the same rows.
    if before.correct is None or after.correct is None:
        return None
    if score is None:
        return float(before.correct), float(after.correct)
    return before.scores[score], after.scores[score]


def _paired_test(before: Sequence[float], after: Sequence[float], score: str | None) -> PairedTest:
    if score is None:
        return mcnemar([value == 1 for value in before], [value == 1 for value in after])
    return paired_permutation_test(before, after)


def _interval(values: Sequence[float], score: str | None) -> Interval | None:
    return wilson(int(sum(values)), len(values)) if score is None else bootstrap_mean(values)


def _by_category(pairs: Sequence[tuple[str, _Pair | None]], score: str | None) -> dict[str, CategoryResult]:
    names = sorted({category for category, _ in pairs if category})
    return {name: _category([pair for category, pair in pairs if category == name], score) for name in names}


def _category(pairs: Sequence[_Pair | None], score: str | None) -> CategoryResult:
    judged = [pair for pair in pairs if pair is not None]
    if not judged:
        return CategoryResult(n=0, value=None, base_value=None, interval=None, unjudgeable=len(pairs))
    before, after = [old for old, _ in judged], [new for _, new in judged]
    return CategoryResult(
        n=len(judged),
        value=sum(after) / len(judged),
        base_value=sum(before) / len(judged),
        interval=_interval(after, score),
        unjudgeable=len(pairs) - len(judged),
        base_interval=_interval(before, score),
    )
