"""The training that a run's result comes from: the tuning, or the repair that followed it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

TrainingName = Literal["tuning", "repair"]
"""Name of a training in the logs of a run."""
REPAIR_PREFIX = "repair-"
"""Beginning of the names of a repair's checkpoints."""


@dataclass(frozen=True)
class LastTraining:
    """A training and its checkpoints: the name of each by the number of steps that it follows."""

    name: TrainingName
    steps: int
    checkpoints: dict[int, str]


def last_training(points: Iterable[tuple[str, int]], chosen: str, steps: int, repair_steps: int | None) -> LastTraining:
    """Return the training that the chosen checkpoint is of; steps count from the beginning of that training.

    `points` are names and steps of all checkpoints of a run, where a repair counts on from the tuning. A checkpoint of
    lower strength takes the place of the one that it was made from, if it is the chosen one.

    >>> points = [("step-5", 5), ("step-9", 9), ("repair-step-2", 11), ("repair-step-4", 13)]
    >>> last_training(points, "repair-step-4", 9, repair_steps=4)
    LastTraining(name='repair', steps=4, checkpoints={2: 'repair-step-2', 4: 'repair-step-4'})
    >>> last_training([("step-5", 5), ("step-9", 9), ("step-5-x0.7", 5)], "step-5-x0.7", 9, repair_steps=None)
    LastTraining(name='tuning', steps=9, checkpoints={5: 'step-5-x0.7', 9: 'step-9'})
    """
    points, repaired = list(points), repair_steps if chosen.startswith(REPAIR_PREFIX) else None
    before = max((step for name, step in points if not name.startswith(REPAIR_PREFIX)), default=0)
    start = 0 if repaired is None else before
    found: dict[int, str] = {}
    for name, step in points:
        if name.startswith(REPAIR_PREFIX) == (repaired is not None):
            found[step - start] = name if name == chosen else found.get(step - start, name)
    return LastTraining("tuning", steps, found) if repaired is None else LastTraining("repair", repaired, found)
