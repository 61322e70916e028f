"""The gate: what the base could do before, the tuned model must still do.

Source: the contest's rule. F1 and EM *each* keep at least the threshold's share of the base; a base below 5 points has
nothing to keep, so the gate is not measurable there and not passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lotune.errors import DataError
from lotune.evaluate.statistics import Interval, bootstrap_mean, bootstrap_ratio, wilson

MIN_BASE_SCORE = 5.0
"""Points, 0 to 100, below which a base has no ability that could be kept."""
CONTEST_METRICS = ("contest_f1", "contest_em")
"""The contest's two gated metrics. Others are reported beside them, where these are measured."""


@dataclass(frozen=True)
class RetentionMetric:
    """One metric before and after, 0 to 100.

    `retained` is tuned / base, or None where the base is below 5 points (not measurable); `is_gated` tells whether the
    line decides validity or is only reported. The intervals, 95 %, are those of the three figures; None is not
    estimable.
    """

    task: str
    metric: str
    base: float
    tuned: float
    retained: float | None
    threshold: float
    passed: bool
    is_gated: bool = True
    base_interval: Interval | None = None
    tuned_interval: Interval | None = None
    retained_interval: Interval | None = None


def gate(
    base_metrics: Mapping[str, float],
    tuned_metrics: Mapping[str, float],
    threshold: float = 0.9,
    task: str = "reading",
    gating: Sequence[str] = CONTEST_METRICS,
) -> list[RetentionMetric]:
    """A line for each metric (0 to 100) of the base; where none of them is in `gating`, all of them gate.

    Raises: DataError where the tuned model's metrics are not the base's.

    >>> lines = gate({"contest_f1": 59.87, "contest_em": 44.17}, {"contest_f1": 53.9, "contest_em": 39.7})
    >>> [(line.metric, round(line.retained, 4), line.passed) for line in lines]
    [('contest_f1', 0.9003, True), ('contest_em', 0.8988, False)]
    """
    if set(base_metrics) != set(tuned_metrics):
        found = f"{', '.join(sorted(tuned_metrics)) or 'nothing'} measured after tuning"
        raise DataError("retention", found, ", ".join(sorted(base_metrics)))
    decisive = [metric for metric in base_metrics if metric in gating] or list(base_metrics)
    return [
        _line(task, metric, base, tuned_metrics[metric], threshold, metric in decisive)
        for metric, base in base_metrics.items()
    ]


def add_intervals(
    line: RetentionMetric, base: Sequence[float], tuned: Sequence[float], *, share: bool = False
) -> RetentionMetric:
    """The line with its intervals, from the points of the same rows before and after.

    Those of a `share` of right answers (0 or 100 points a row) are Wilson's, of a mean the bootstrap's; that of what
    was kept is the bootstrap's, each row drawn with both.
    """
    return replace(
        line,
        base_interval=_of_points(base, share),
        tuned_interval=_of_points(tuned, share),
        retained_interval=None if line.retained is None else bootstrap_ratio(tuned, base),
    )


def _of_points(points: Sequence[float], share: bool) -> Interval | None:
    if not share:
        return bootstrap_mean(points)
    low, high = wilson(sum(value == 100 for value in points), len(points))
    return Interval(100 * low, 100 * high)


def gate_passed(lines: Sequence[RetentionMetric]) -> bool:
    """Whether all lines that gate are passed, and there is one.

    >>> gate_passed([])
    False
    """
    decisive = [line for line in lines if line.is_gated]
    return bool(decisive) and all(line.passed for line in decisive)


def min_retained(lines: Sequence[RetentionMetric]) -> float | None:
    """The smallest share that a gating line kept; None where one cannot be measured, or none gates.

    >>> min_retained(gate({"contest_f1": 60.0, "contest_em": 40.0}, {"contest_f1": 57.0, "contest_em": 40.0}))
    0.95
    """
    kept = [line.retained for line in lines if line.is_gated]
    known = [share for share in kept if share is not None]
    return min(known) if known and len(known) == len(kept) else None


def _line(task: str, metric: str, base: float, tuned: float, threshold: float, gates: bool) -> RetentionMetric:
    kept = tuned / base if base >= MIN_BASE_SCORE else None
    passed = kept is not None and kept >= threshold - 1e-12  # the last bit of a mean must not decide
    return RetentionMetric(task, metric, base, tuned, kept, threshold, passed, gates)
