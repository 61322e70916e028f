"""The retention gate: the tuned model must keep an ability of the base.

Source: the contest's rule. F1 and EM must *each* keep a fraction of the base's score. A base below 5 points has no
ability to keep, so the gate is not measurable and fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lotune.errors import DataError
from lotune.evaluate.replay import ReplaySettings
from lotune.evaluate.statistics import Interval, bootstrap_mean, bootstrap_ratio, wilson
from lotune.settings import Settings
from lotune.tasks.registry import RETENTION_TASK

MIN_BASE_SCORE = 5.0
"""Points (0 to 100) below which a base has no ability to keep."""
CONTEST_METRICS = ("contest_f1", "contest_em")
"""The two gated metrics of the contest; beside them, other metrics are only reported."""


# The contest has 2,067 rows. 200 rows take seconds with nano, and the interval shows their uncertainty.
RETENTION_ROWS = 200
"""Default number of generated retention rows."""
RETENTION_VALIDATION_ROWS = 100
"""Default number of retention rows that are generated or set aside for validation."""


class RetentionSettings(Settings):
    """The ability that the model must not lose."""

    task: str = RETENTION_TASK
    """Task that measures what the model retains."""
    data: Path | None = None
    """File of retention rows (for reading: SQuAD's layout); null: generate them."""
    rows: int | None = Field(None, ge=1)
    """Number of retention rows, sampled by seed; null: all rows of a file, or 200 generated ones."""
    language: Literal["zh", "en", "both"] = "both"
    """Language of the generated retention rows."""
    validation: Path | None = None
    """File of rows on which the gate is watched while tuning; null: generate them, or set rows of `data` aside."""
    validation_rows: int | None = Field(None, ge=0)
    """Number of those rows, sampled by seed; 0: watch nothing; null: all rows of a file, or 100."""
    replay: ReplaySettings = Field(default_factory=ReplaySettings)
    divergence: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of KL(base‖tuned) per token of a replay row, which takes the place of its cross-entropy; 0: cross-entropy;
    auto: 1 for rows that the base writes, else 0. The base's logits come from the same weights without the adapter."""
    # The contest's rule: F1 and EM each keep 90 % of the base's.
    min_retained: float = Field(0.9, ge=0, le=1)
    """Fraction of the base's score that each retention metric must keep."""
    action: Literal["report", "stop", "repair"] = "repair"
    """What to do about a checkpoint that does not pass the gate on the validation rows. report: nothing; stop: end the
    tuning there; repair: if none passes, tune on from the best one, with more replay and divergence from the base."""
    repair_steps: int = Field(200, ge=5)
    """Optimizer steps of a repair, at most: it ends once a checkpoint passes, unless checkpoints.spacing is even."""

    strength: Annotated[float, Field(gt=0, le=1)] | Literal["auto", "search"] = "auto"
    """Factor on the change that the chosen adapter makes. search: the one that suits the gate and the task best on the
    validation rows; auto: search it only if no checkpoint passes the gate even after a repair, else 1."""
    strength_groups: int = Field(1, ge=1)
    """Groups of neighbouring layers that get a strength each in a search."""

    @model_validator(mode="after")
    def _search_has_rows(self) -> RetentionSettings:
        if self.strength == "search" and self.validation_rows == 0:
            raise ValueError("strength search needs retention validation rows: set retention.validation_rows above 0")
        return self

    @model_validator(mode="after")
    def _divergence_has_rows(self) -> RetentionSettings:
        if self.divergence not in ("auto", 0) and self.replay.rows == 0:
            raise ValueError(f"divergence {self.divergence} needs replay rows: set retention.replay.rows above 0")
        return self


@dataclass(frozen=True)
class RetentionMetric:
    """One metric before and after tuning, 0 to 100.

    `retained` is tuned / base, or None if the base is below 5 points (not measurable). `is_gated` tells whether the
    metric decides validity or is only reported. An interval (95 %) is None if it cannot be estimated.
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
    settings: RetentionSettings | None = None,
    gating: Sequence[str] = CONTEST_METRICS,
) -> list[RetentionMetric]:
    """Compare each metric (0 to 100) with the base's; if none of them is in `gating`, all are gated.

    Raises: DataError if base and tuned model have different metrics.

    >>> lines = gate({"contest_f1": 59.87, "contest_em": 44.17}, {"contest_f1": 53.9, "contest_em": 39.7})
    >>> [(line.metric, round(line.retained, 4), line.passed) for line in lines]
    [('contest_f1', 0.9003, True), ('contest_em', 0.8988, False)]
    """
    if set(base_metrics) != set(tuned_metrics):
        measured = f"{', '.join(sorted(tuned_metrics)) or 'nothing'} measured after tuning"
        raise DataError("retention", measured, ", ".join(sorted(base_metrics)))
    settings = settings or RetentionSettings()
    # Other metrics beside the contest's are only reported; a task without the contest's metrics must keep all its own.
    gated = [metric for metric in base_metrics if metric in gating] or list(base_metrics)
    return [
        _compare(settings, metric, base, tuned_metrics[metric], metric in gated)
        for metric, base in base_metrics.items()
    ]


def add_intervals(
    line: RetentionMetric, base: Sequence[float], tuned: Sequence[float], *, is_accuracy: bool = False
) -> RetentionMetric:
    """Return the metric with its intervals, from the points of the same rows before and after.

    The intervals of an accuracy (0 or 100 points per row) are Wilson's, those of a mean are bootstrapped, and that of
    the retained fraction is a paired bootstrap.
    """
    return replace(
        line,
        base_interval=_of_points(base, is_accuracy),
        tuned_interval=_of_points(tuned, is_accuracy),
        retained_interval=None if line.retained is None else bootstrap_ratio(tuned, base),
    )


def _of_points(points: Sequence[float], is_accuracy: bool) -> Interval | None:
    if not is_accuracy:
        return bootstrap_mean(points)
    # A bootstrap has no width if all rows have the same verdict; Wilson's interval does.
    low, high = wilson(sum(value == 100 for value in points), len(points))
    return Interval(100 * low, 100 * high)


def gate_passed(lines: Sequence[RetentionMetric]) -> bool:
    """Return whether there are gated metrics and all of them passed.

    >>> gate_passed([])
    False
    """
    # `all` is true of an empty list, but a gate without metrics must not pass.
    gated = [line for line in lines if line.is_gated]
    return bool(gated) and all(line.passed for line in gated)


def min_retained(lines: Sequence[RetentionMetric]) -> float | None:
    """Return the smallest retained fraction of the gated metrics; None if one is not measurable, or none is gated.

    >>> min_retained(gate({"contest_f1": 60.0, "contest_em": 40.0}, {"contest_f1": 57.0, "contest_em": 40.0}))
    0.95
    """
    retained = [line.retained for line in lines if line.is_gated]
    measured = [fraction for fraction in retained if fraction is not None]
    return min(measured) if measured and len(measured) == len(retained) else None


def _compare(settings: RetentionSettings, metric: str, base: float, tuned: float, is_gated: bool) -> RetentionMetric:
    threshold = settings.min_retained
    retained = tuned / base if base >= MIN_BASE_SCORE else None
    passed = retained is not None and retained >= threshold - 1e-12  # the last bit of a mean must not decide
    return RetentionMetric(settings.task, metric, base, tuned, retained, threshold, passed, is_gated)
