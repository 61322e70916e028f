"""Tell a tuning that had not finished learning from one that no longer learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lotune.evaluate.target import ScoredExample, measure_target
from lotune.tasks.task import Task

FALLING = 0.02
"""Fraction of the loss that must be gone from one checkpoint to the next for the loss to be still falling."""


@dataclass(frozen=True)
class CheckpointScores:
    """The scores of a checkpoint on the validation rows, and the loss of their references."""

    loss: float
    scored: Sequence[ScoredExample]


@dataclass(frozen=True)
class LearningCourse:
    """Whether a tuning was still learning at its last checkpoint, and the evidence as a clause."""

    unfinished: bool
    evidence: str


def learning_course(task: Task, checkpoints: Sequence[CheckpointScores]) -> LearningCourse | None:
    """Return the course from the last checkpoint but one to the last; None for a single checkpoint.

    A tuning is unfinished if the last checkpoint is better on the validation rows beyond chance (one-sided paired test
    at 5 %, in the metric's direction), or if the loss of their references fell by 2 % at least.
    """
    if len(checkpoints) < 2:
        return None
    before, last = checkpoints[-2:]
    target = measure_target(task, before.scored, last.scored)
    values = f"{task.metric} went from {target.base_value:.4g} to {target.value:.4g}"
    losses = f"the loss from {before.loss:.4g} to {last.loss:.4g}"
    between = f"between the last two checkpoints, validation {values} (one-sided p = {target.p_value:.2g}), {losses}"
    return LearningCourse(target.better or last.loss < (1 - FALLING) * before.loss, between)
