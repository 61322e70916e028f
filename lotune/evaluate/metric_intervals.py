"""Confidence intervals of all metrics of a task: Wilson's for an accuracy, a bootstrap over the rows otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from lotune.evaluate.statistics import Interval, bootstrap_mean, limits, wilson
from lotune.tasks.task import Score, Task

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
    known = [one for one in judged if one.correct is not None]
    return {name: _interval(task, name, known, seed) for name in task.metrics(judged) if name != COUNT}


def primary_metric_interval(task: Task, judged: Sequence[Score]) -> Interval | None:
    """Return the 95 % interval of the task's primary metric."""
    return _interval(task, task.metric, [one for one in judged if one.correct is not None], 0)


def _interval(task: Task, name: str, known: Sequence[Score], seed: int) -> Interval | None:
    if name in task.score_name_by_metric:
        return bootstrap_mean([one.scores[task.score_name_by_metric[name]] for one in known])
    if name in ("accuracy", task.metric):
        return wilson(sum(bool(one.correct) for one in known), len(known))
    generator = numpy.random.default_rng(seed)
    if name in FROM_COUNTS:
        labels = list(getattr(task, "labels", {}).values())
        figures = FROM_COUNTS[name](*drawn_counts(known, labels[-1] if labels else "", generator))
    else:  # a metric that only its task can compute
        draws = generator.integers(0, len(known), (DRAWS, len(known)))
        figures = numpy.asarray([task.metrics([known[row] for row in draw])[name] for draw in draws])
    return limits(figures)


def drawn_counts(
    judged: Sequence[Score], positive: str, generator: numpy.random.Generator, draws: int = DRAWS
) -> tuple[_Counts, int]:
    """Return confusion matrices of resampled rows, (draws, K, K) int64, and the index of `positive`.

    Rows are references, columns answers; K is the number of distinct labels in both (no label counts as one).
    """
    pairs = Counter((one.reference, one.extracted) for one in judged)
    names = list(dict.fromkeys([positive, *(name for pair in pairs for name in pair)]))
    shares = numpy.asarray([count / len(judged) for count in pairs.values()])
    counts = numpy.zeros((draws, len(names), len(names)), dtype=numpy.int64)
    keys, reads = zip(*((names.index(key), names.index(read)) for key, read in pairs), strict=True)
    counts[:, keys, reads] = generator.multinomial(len(judged), shares / shares.sum(), draws)
    return counts, names.index(positive)


def _balanced_accuracy(counts: _Counts, _: int) -> _Counts:
    asked = counts.sum(2)
    right = numpy.diagonal(counts, axis1=1, axis2=2)
    shares = numpy.divide(right, asked, out=numpy.zeros(right.shape), where=asked > 0)
    found: _Counts = shares.sum(1) / (asked > 0).sum(1)
    return found


def _f1(counts: _Counts, positive: int) -> _Counts:
    named = counts[:, positive].sum(1) + counts[:, :, positive].sum(1)
    hits = 2.0 * counts[:, positive, positive]
    found: _Counts = numpy.divide(hits, named, out=numpy.zeros(len(counts)), where=named > 0)
    return found


def _matthews(counts: _Counts, _: int) -> _Counts:
    asked, named = counts.sum(2).astype(float), counts.sum(1).astype(float)
    right, total = numpy.trace(counts, axis1=1, axis2=2), asked.sum(1)
    spread = (total**2 - (asked**2).sum(1)) * (total**2 - (named**2).sum(1))
    top = right * total - (asked * named).sum(1)
    found: _Counts = numpy.divide(top, numpy.sqrt(spread), out=numpy.zeros(len(counts)), where=spread > 0)
    return found


FROM_COUNTS: Mapping[str, Callable[[_Counts, int], _Counts]] = {
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "matthews": _matthews,
}
"""The metrics of `lotune.tasks.metrics` that are made of the counts of keys and answers, for all draws at once."""
