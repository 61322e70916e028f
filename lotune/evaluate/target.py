"""Measurement of a target metric from the scores of the same rows before and after tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lotune.data.examples import Example
from lotune.errors import DataError
from lotune.evaluate.scorecard import CategoryResult, MajorityResult, Target
from lotune.evaluate.statistics import (
    Interval,
    PairedTest,
    bootstrap_weighted_mean,
    mcnemar,
    paired_permutation_test,
    weighted_mean,
    wilson,
)
from lotune.tasks.baselines import chance
from lotune.tasks.metrics import LOWER_IS_BETTER, WEIGHTS, goodness
from lotune.tasks.task import Score, Task


class ScoredExample(NamedTuple):
    """The score of one row, with the row's id and category."""

    id: str
    category: str
    score: Score


def measure_target(task: Task, base: Sequence[ScoredExample], tuned: Sequence[ScoredExample]) -> Target:
    """Return the figures of the task's main metric from the scores of the same rows before and after tuning.

    An accuracy of verdicts is 0 to 1 (McNemar's test), the mean of a per-example score in the unit of that score
    (sign-flip test). "Better" follows the direction of the metric. Rows that cannot be judged are only counted.

    Raises: DataError if the two sets are not of the same rows, or no row can be judged.
    """
    score = task.score_name_by_metric.get(task.metric)
    pairs = _pairs(base, tuned, score)
    judged = [pair for _, pair in pairs if pair is not None]
    if not judged:
        raise DataError("evaluation", f"none of {len(pairs)} rows has a reference that can be scored")
    test, result = _paired_test(judged, score), _result([pair for _, pair in pairs], score)
    return Target(
        task=task.name,
        metric=task.metric,
        **dict(result),
        by_category=_by_category(pairs, score),
        beside=_beside(task, base, tuned),
        gained=test.gained,
        lost=test.lost,
        # One-sided, because the contest rewards a model that became better, not one that merely changed.
        p_value=test.p_better,
        better=test.better,
        difference_interval=_difference_interval(judged) if score else None,
        scorer=task.scorer,
        score=score,
        lower_is_better=task.metric in LOWER_IS_BETTER,
    )


def with_majority(
    target: Target, task: Task, examples: Sequence[Example], tuned: Sequence[ScoredExample], answer: str
) -> Target:
    """Return the target of labels or choices with chance and with `answer` as the answer to every row."""
    verdicts = {row.id: row.score.correct for row in tuned}
    pairs = [(task.judge(example, answer).correct, verdicts.get(example.id)) for example in examples]
    judged = [(bool(before), bool(after)) for before, after in pairs if before is not None and after is not None]
    if not judged:
        return target
    before, after = map(list, zip(*judged, strict=True))
    test = mcnemar(before, after)
    majority = MajorityResult(
        answer=answer, value=sum(before) / len(before), interval=wilson(sum(before), len(before)),
        p_value=test.p_better, better=test.better,
    )  # fmt: skip
    return target.model_copy(update={"majority": majority, "chance": chance(task, examples)})


class _Pair(NamedTuple):
    """The values of a row before and after tuning, and its weight in their means."""

    before: float
    after: float
    weight: float = 1.0


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
        return _Pair(float(before.correct), float(after.correct))
    weight = after.scores[WEIGHTS[score]] if score in WEIGHTS else 1.0
    return _Pair(before.scores[score], after.scores[score], weight)


def _paired_test(pairs: Sequence[_Pair], score: str | None) -> PairedTest:
    if score is None:
        return mcnemar([pair.before == 1 for pair in pairs], [pair.after == 1 for pair in pairs])
    before = [goodness(score, pair.weight * pair.before) for pair in pairs]
    return paired_permutation_test(before, [goodness(score, pair.weight * pair.after) for pair in pairs])


def _difference_interval(pairs: Sequence[_Pair]) -> Interval | None:
    return bootstrap_weighted_mean([pair.after - pair.before for pair in pairs], [pair.weight for pair in pairs])


def _interval(values: Sequence[float], weights: Sequence[float], score: str | None) -> Interval | None:
    return wilson(int(sum(values)), len(values)) if score is None else bootstrap_weighted_mean(values, weights)


def _by_category(pairs: Sequence[tuple[str, _Pair | None]], score: str | None) -> dict[str, CategoryResult]:
    names = sorted({category for category, _ in pairs if category})
    return {name: _result([pair for category, pair in pairs if category == name], score) for name in names}


def _beside(task: Task, base: Sequence[ScoredExample], tuned: Sequence[ScoredExample]) -> dict[str, CategoryResult]:
    """Return the results of the other scores of a task that scores references: those of its generated answers."""
    if not task.scores_references:
        return {}
    # Validation scores the references alone, without generated answers.
    judged = [row.score.scores for row in (*base, *tuned) if row.score.correct is not None]
    scores = {
        name: score
        for name, score in task.score_name_by_metric.items()
        if name != task.metric and all(score in row for row in judged)
    }
    return {name: _result([pair for _, pair in _pairs(base, tuned, score)], score) for name, score in scores.items()}


def _result(pairs: Sequence[_Pair | None], score: str | None) -> CategoryResult:
    judged = [pair for pair in pairs if pair is not None]
    if not judged:
        return CategoryResult(n=0, value=None, base_value=None, interval=None, unjudgeable=len(pairs))
    before, after, weights = map(list, zip(*judged, strict=True))
    return CategoryResult(
        n=len(judged),
        value=weighted_mean(after, weights),
        base_value=weighted_mean(before, weights),
        interval=_interval(after, weights, score),
        unjudgeable=len(pairs) - len(judged),
        base_interval=_interval(before, weights, score),
    )
