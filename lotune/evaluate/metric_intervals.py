"""Confidence intervals of all metrics of a task: Wilson's for an accuracy, a bootstrap over the rows otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from lotune.evaluate.statistics import Interval, bootstrap_weighted_mean, limits, wilson
from lotune.tasks.metrics import weights_of
from lotune.tasks.task import Score, Task

# A tenth of the draws of a mean, because a metric without counts is computed again for each draw.
DRAWS = 1_000
"""Resamples for a metric that is not a mean."""
COUNT = "unjudgeable"
"""A count among the metrics, without an interval."""

_Counts = NDArray[Any]


def metric_intervals(task: Task, judged: Sequence[Score], seed: int = 0) -> dict[str, Interval | None]:
    """Return the 95 % interval of each metric by name, over the judgeable rows, in the metric's unit.

    Accuracies have Wilson's interval, means of scores a bootstrap of the mean, others 1,000 resamples of the rows. An
    interval is None if the resamples do not vary.
    """
    judgeable = [score for score in judged if score.correct is not None]
    return {name: _interval(task, name, judgeable, seed) for name in task.metrics(judged) if name != COUNT}


def primary_metric_interval(task: Task, judged: Sequence[Score]) -> Interval | None:
    """Return the 95 % interval of the task's primary metric."""
    return _interval(task, task.metric, [score for score in judged if score.correct is not None], 0)


def _interval(task: Task, name: str, judgeable: Sequence[Score], seed: int) -> Interval | None:
    if name in task.score_name_by_metric:
        score_name = task.score_name_by_metric[name]
        values = [score.scores[score_name] for score in judgeable]
        weights = weights_of([score.scores for score in judgeable], score_name) or [1.0] * len(values)
        return bootstrap_weighted_mean(values, weights)
    # A primary metric without a per-row score is the accuracy, perhaps under another name.
    if name in ("accuracy", task.metric):
        return wilson(sum(bool(score.correct) for score in judgeable), len(judgeable))
    generator = numpy.random.default_rng(seed)
    if name in FROM_COUNTS:
        labels = list(getattr(task, "labels", {}).values())
        figures = FROM_COUNTS[name](*drawn_counts(judgeable, labels[-1] if labels else "", generator))
    else:  # a metric that only its task can compute
        draws = generator.integers(0, len(judgeable), (DRAWS, len(judgeable)))
        figures = numpy.asarray([task.metrics([judgeable[row] for row in draw])[name] for draw in draws])
    return limits(figures)


def drawn_counts(
    judged: Sequence[Score], positive: str, generator: numpy.random.Generator, draws: int = DRAWS
) -> tuple[_Counts, int]:
    """Return confusion matrices of resampled rows, (draws, K, K) int64, and the index of `positive`.

    Rows are references, columns answers; K is the number of distinct labels in both (no label counts as one).
    """
    pairs = Counter((score.reference, score.extracted) for score in judged)
    labels = list(dict.fromkeys([positive, *(label for pair in pairs for label in pair)]))
    fractions = numpy.asarray([count / len(judged) for count in pairs.values()])
    counts = numpy.zeros((draws, len(labels), len(labels)), dtype=numpy.int64)
    references, answers = zip(*((labels.index(key), labels.index(answer)) for key, answer in pairs), strict=True)
    # Rows with the same pair are interchangeable, so drawing rows with replacement is one multinomial draw of counts.
    # Divided by the sum, because `multinomial` rejects fractions whose sum rounding brings above 1.
    counts[:, references, answers] = generator.multinomial(len(judged), fractions / fractions.sum(), draws)
    return counts, labels.index(positive)


def _balanced_accuracy(counts: _Counts, _: int) -> _Counts:
    actual = counts.sum(2)  # (draws, K)
    correct = numpy.diagonal(counts, axis1=1, axis2=2)  # (draws, K)
    recall = numpy.divide(correct, actual, out=numpy.zeros(correct.shape), where=actual > 0)
    # A rare label may be missing from a draw, whose mean is then over the other labels.
    mean_recall: _Counts = recall.sum(1) / (actual > 0).sum(1)
    return mean_recall


def _f1(counts: _Counts, positive: int) -> _Counts:
    total = counts[:, positive].sum(1) + counts[:, :, positive].sum(1)  # (draws,): references plus answers
    overlap = 2.0 * counts[:, positive, positive]
    f1: _Counts = numpy.divide(overlap, total, out=numpy.zeros(len(counts)), where=total > 0)
    return f1


def _matthews(counts: _Counts, _: int) -> _Counts:
    # Gorodkin's form for K labels (2004), which for two labels is Matthews'. Floats, as the product
    # of squares overflows int64 beyond 55,000 rows.
    actual, predicted = counts.sum(2).astype(float), counts.sum(1).astype(float)  # (draws, K)
    correct, total = numpy.trace(counts, axis1=1, axis2=2), actual.sum(1)
    variance = (total**2 - (actual**2).sum(1)) * (total**2 - (predicted**2).sum(1))
    covariance = correct * total - (actual * predicted).sum(1)
    # All answers the same: the coefficient is 0 by convention, as in scikit-learn.
    matthews: _Counts = numpy.divide(covariance, numpy.sqrt(variance), out=numpy.zeros(len(counts)), where=variance > 0)
    return matthews


FROM_COUNTS: Mapping[str, Callable[[_Counts, int], _Counts]] = {
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "matthews": _matthews,
}
"""Metrics of `lotune.tasks.metrics` as functions of confusion matrices, for all draws at once."""
