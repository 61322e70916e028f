"""The retention gate: the tuned model must keep an ability of the base.

Source: the contest's rule. F1 and EM must *each* keep a fraction of the base's score. A base below 5 points has no
ability to keep, so the gate is not measurable and fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lotune.errors import DataError
from lotune.evaluate.abilities import FLAT_SETTINGS, AbilityRows, AbilitySettings
from lotune.evaluate.replay import ReplaySettings
from lotune.evaluate.statistics import Interval, bootstrap_mean, bootstrap_ratio, bootstrap_weighted_mean, wilson
from lotune.tasks.metrics import LOWER_IS_BETTER
from lotune.tasks.registry import RETENTION_TASK

MIN_BASE_SCORE = 5.0
"""Points (0 to 100) below which a base has no ability to keep."""
MIN_RETAINED = 0.9
"""The contest's rule: F1 and EM each keep at least this fraction of the base's."""
CONTEST_METRICS = ("contest_f1", "contest_em")
"""The two gated metrics of the contest. Other metrics beside them are only reported."""


# The contest has 2,067 rows. 500 rows take seconds with nano and tell a retained fraction of .95 from .97; 200 did not.
RETENTION_ROWS = 500
"""Default number of generated retention rows."""
RETENTION_VALIDATION_ROWS = 100
"""Default number of retention rows that are generated for validation, and the most that are set aside for it."""


class RetentionSettings(AbilityRows):
    """The ability that the model must not lose, or a list of several."""

    abilities: list[AbilitySettings] = []
    """Several abilities in place of one: a list of mappings with task, data, rows, language, validation and
    validation_rows, as under retention, and name, gate (false: only measured) and replay (false: rows of its generator
    are not replayed)."""
    replay: ReplaySettings = Field(default_factory=ReplaySettings)
    divergence: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of KL(base‖tuned) per token of a replay row, in place of its cross-entropy; 0: cross-entropy; auto: 0.5
    for rows that the base writes, else 0. The base's logits come from the same weights without the adapter."""
    min_retained: float = Field(MIN_RETAINED, ge=0, le=1)
    """Fraction of the base's score that each gated retention metric must keep."""
    action: Literal["report", "stop", "repair"] = "repair"
    """What to do if checkpoints do not pass the gate on the retention validation rows. report: nothing; stop: end the
    tuning early after the first of them; repair: tune on from the best checkpoint, with more replay and divergence from
    the base, if no checkpoint passes, or if the best one fails and is better beyond chance than those that pass."""
    repair_steps: int = Field(200, ge=5)
    """Maximum number of optimizer steps of a repair, which ends early once a checkpoint passes, unless
    checkpoints.spacing is even."""

    strength: Annotated[float, Field(gt=0, le=1)] | Literal["auto", "search"] = "auto"
    """Factor on the change that the chosen adapter makes. search: choose the factor on the validation rows, by gate and
    task; auto: search only if no checkpoint passes the gate even after a repair, else 1."""
    strength_groups: int = Field(1, ge=1)
    """Number of groups of neighbouring layers, each of which gets its own strength in a search."""

    @property
    def measured(self) -> tuple[AbilitySettings, ...]:
        """The abilities to measure: those listed, or the one that the settings beside the list describe."""
        if self.abilities:
            return tuple(self.abilities)
        return (AbilitySettings(**{name: getattr(self, name) for name in FLAT_SETTINGS}),)

    def key_of(self, ability: AbilitySettings) -> str:
        """Return the dotted key under which an ability's settings are recorded."""
        return f"retention.abilities.{ability.label}" if self.abilities else "retention"

    @model_validator(mode="after")
    def _abilities_are_told_apart(self) -> RetentionSettings:
        labels = [ability.label for ability in self.abilities]
        # A stored recipe has the defaults written out, so only other values are a contradiction.
        default = AbilityRows()
        both = [name for name in FLAT_SETTINGS if labels and getattr(self, name) != getattr(default, name)]
        if both:
            raise ValueError(f"abilities are listed, and {', '.join(both)} is set beside the list: set it in the list")
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two abilities are called {', '.join(repeated)}: give each a name")
        if labels and not any(ability.gate for ability in self.abilities):
            raise ValueError("no ability of the list has gate: true, so nothing would decide validity")
        return self

    @model_validator(mode="after")
    def _search_has_rows(self) -> RetentionSettings:
        if self.strength == "search" and all(one.validation_rows == 0 for one in self.measured if one.gate):
            raise ValueError("strength search needs retention validation rows: set retention.validation_rows above 0")
        return self

    @model_validator(mode="after")
    def _divergence_has_rows(self) -> RetentionSettings:
        if self.divergence not in ("auto", 0) and self.replay.rows == 0:
            raise ValueError(f"divergence {self.divergence} needs replay rows: set retention.replay.rows above 0")
        return self


@dataclass(frozen=True)
class RetentionMetric:
    """One metric before and after tuning, 0 to 100, or bits per byte.

    `retained` is tuned / base, or None if the base is below 5 points (not measurable). For bits per byte, where lower
    is better, it is base / tuned. `is_gated` tells whether the metric decides validity or is only reported. An interval
    (95 %) is None if it cannot be estimated.
    """

    task: str
    """Name of the ability, by default the name of its task."""
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
    *,
    min_retained: float = MIN_RETAINED,
    ability: str = RETENTION_TASK,
    gating: Sequence[str] = CONTEST_METRICS,
    is_gated: bool = True,
) -> list[RetentionMetric]:
    """Compare each metric of an ability with the base's, 0 to 100 or in bits per byte.

    The metrics in `gating` are gated, or all metrics if the ability has none of these. Without `is_gated`, none is.

    Raises: DataError if base and tuned model have different metrics.

    >>> lines = gate({"contest_f1": 59.87, "contest_em": 44.17}, {"contest_f1": 53.9, "contest_em": 39.7})
    >>> [(line.metric, round(line.retained, 4), line.passed) for line in lines]
    [('contest_f1', 0.9003, True), ('contest_em', 0.8988, False)]
    """
    if set(base_metrics) != set(tuned_metrics):
        measured = f"{', '.join(sorted(tuned_metrics)) or 'nothing'} measured after tuning"
        raise DataError("retention", measured, ", ".join(sorted(base_metrics)))
    # Metrics beside those in `gating` are only reported; a task that has none of those must keep all its own.
    gated = [metric for metric in base_metrics if metric in gating] or list(base_metrics)
    retained = {metric: _retained(metric, base, tuned_metrics[metric]) for metric, base in base_metrics.items()}
    return [
        RetentionMetric(
            ability, metric, base_metrics[metric], tuned_metrics[metric], fraction, min_retained,
            # Rounding in the last bit of a mean must not decide.
            passed=fraction is not None and fraction >= min_retained - 1e-12,
            is_gated=is_gated and metric in gated,
        )
        for metric, fraction in retained.items()
    ]  # fmt: skip


def _retained(metric: str, base: float, tuned: float) -> float | None:
    """Return the retained fraction of a metric; None if the base scores too low to be measured.

    >>> _retained("contest_f1", 60.0, 57.0), _retained("bits_per_byte", 1.9, 2.0)
    (0.95, 0.95)
    """
    if metric in LOWER_IS_BETTER:
        return base / tuned if tuned > 0 else None
    return tuned / base if base >= MIN_BASE_SCORE else None


def add_intervals(
    line: RetentionMetric,
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    is_accuracy: bool = False,
    weights: Sequence[float] | None = None,
) -> RetentionMetric:
    """Return the metric with its intervals, from the points of the same rows before and after.

    The intervals of an accuracy (0 or 100 points per row) are Wilson's, those of a mean are bootstrapped, and the
    interval of the retained fraction is a paired bootstrap. `weights` are the weights of the rows in the mean.
    """
    return replace(
        line,
        base_interval=_of_points(base, is_accuracy, weights),
        tuned_interval=_of_points(tuned, is_accuracy, weights),
        retained_interval=None if line.retained is None else _of_fraction(line.metric, base, tuned, weights),
    )


def _of_fraction(
    metric: str, base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None
) -> Interval | None:
    # A ratio of weighted means over the same rows is a ratio of sums, as both are divided by the sum of the weights.
    before, after = (
        [value * weight for value, weight in zip(values, weights or [1.0] * len(values), strict=True)]
        for values in (base, tuned)
    )
    return bootstrap_ratio(before, after) if metric in LOWER_IS_BETTER else bootstrap_ratio(after, before)


def _of_points(points: Sequence[float], is_accuracy: bool, weights: Sequence[float] | None) -> Interval | None:
    if weights is not None:
        return bootstrap_weighted_mean(points, weights)
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
