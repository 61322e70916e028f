"""The organiser's half of the contest: gate, formula and best checkpoint of a team, from answers to hidden rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lotune.contest.scores import score
from lotune.evaluate.retention import RetentionMetric, gate_passed, min_retained
from lotune.evaluate.scorecard import Target


@dataclass(frozen=True)
class GradedMetric:
    """A gated metric of the base and of a checkpoint, 0 to 100."""

    name: str
    base: float
    tuned: float


@dataclass(frozen=True)
class GradedCheckpoint:
    """A checkpoint of a team: accuracies, ratio and retained fraction are 0 to 1; `reasons` say why it is not valid.

    `retention` has the gated metrics of the retention test.
    """

    name: str
    accuracy: float
    ratio: float
    retained: float | None
    score: float
    p_value: float
    """One-sided p-value of the paired test against the base."""
    reasons: tuple[str, ...]
    base_accuracy: float
    retention: tuple[GradedMetric, ...]

    @property
    def valid(self) -> bool:
        """Whether it passed the gate and is better than the base."""
        return not self.reasons


@dataclass(frozen=True)
class Claimed:
    """What a team claims of its chosen checkpoint."""

    checkpoint: str
    accuracy: float
    ratio: float
    score: float | None


@dataclass(frozen=True)
class GradedTeam:
    """A team with its checkpoints, the one that counts, and what the team claims; None for a model without a bundle."""

    team: str
    checkpoints: tuple[GradedCheckpoint, ...]
    best: GradedCheckpoint
    claimed: Claimed | None


def grade_checkpoint(
    name: str, target: Target, retention: Sequence[RetentionMetric], ratio: float, rule: str
) -> GradedCheckpoint:
    """Return a checkpoint with its score, by the contest's rules.

    F1 and EM each keep 90 % of the base's, and the accuracy is above the base's.
    """
    gated = [line for line in retention if line.is_gated]
    reasons = [
        f"{line.metric} was not kept" if line.retained is not None else f"{line.metric} is not measurable"
        for line in gated
        if not line.passed
    ]
    reasons += [] if gate_passed(retention) or reasons else ["retention was not measured"]
    if target.value <= target.base_value:
        reasons.append("not better than the base")
    return GradedCheckpoint(
        name, target.value, ratio, min_retained(retention), score(rule, ratio, target.value), target.p_value,
        tuple(reasons), target.base_value, tuple(GradedMetric(line.metric, line.base, line.tuned) for line in gated),
    )  # fmt: skip


def best_checkpoint(checkpoints: Sequence[GradedCheckpoint]) -> GradedCheckpoint:
    """Return the checkpoint that counts: the best score of the valid ones, or of all if none is valid.

    Of equal scores the earliest counts. The contest took the best of a team's checkpoints on the test.

    >>> points = ("a", 0.5, ()), ("b", 0.9, ("x",))
    >>> low, high = (GradedCheckpoint(name, value, 0.0, 1.0, value, 0.0, why, 0.1, ()) for name, value, why in points)
    >>> best_checkpoint([low, high]).name, best_checkpoint([high]).name
    ('a', 'b')
    """
    return max([one for one in checkpoints if one.valid] or checkpoints, key=lambda one: one.score)
