"""Tell a tuning that had not finished learning from one that no longer learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lotune.evaluate.early_stopping import LEAST_LOSS_FALL
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.tasks.task import Task


@dataclass(frozen=True)
class CheckpointScores:
    """The scores of a checkpoint on the validation rows, and the loss of their references."""

    step: int
    loss: float
    scored: Sequence[ScoredExample]


@dataclass(frozen=True)
class LearningCourse:
    """Whether a tuning was still learning at its last checkpoint, and the evidence as a clause."""

    unfinished: bool
    evidence: str


def learning_course(task: Task, checkpoints: Sequence[CheckpointScores]) -> LearningCourse | None:
    """Return the course from half the steps of the last checkpoint, or from the one before it; None for a single one.

    A tuning is unfinished if the last checkpoint is better on the validation rows beyond chance (one-sided paired test
    at 5 %, in the metric's direction), or if the loss of their references fell by LEAST_LOSS_FALL.
    """
    if len(checkpoints) < 2:
        return None
    last = checkpoints[-1]
    # As for ending early: learning slows down with the logarithm of the steps.
    before = [*checkpoints[-2:-1], *(point for point in checkpoints if 2 * point.step <= last.step)][-1]
    target = measure_target(task, before.scored, last.scored)
    values = f"{task.metric} went from {target.base_value:.4g} to {target.value:.4g}"
    losses = f"the loss from {before.loss:.4g} to {last.loss:.4g}"
    between = (
        f"from step {before.step} to {last.step}, validation {values} (one-sided p = {target.p_value:.2g}), {losses}"
    )
    return LearningCourse(target.better or last.loss < (1 - LEAST_LOSS_FALL) * before.loss, between)
