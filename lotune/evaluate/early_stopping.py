"""When a tuning has learned what it can from its rows: its validation no longer rises beyond chance.

Checkpoints are compared over twice the steps, as learning slows down with the logarithm of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lotune.evaluate.statistics import mcnemar, paired_permutation_test

LEAST_LOSS_FALL = 0.05
"""Fraction by which the loss of the validation rows falls if a model still learns, over twice the steps."""


@dataclass(frozen=True)
class ValidationPoint:
    """A checkpoint on the validation rows: the value of each row, and the loss of the references.

    Values are at most 1, which stands for a row that is right; higher is better.
    """

    step: int
    values: Sequence[float]
    loss: float

    @property
    def is_perfect(self) -> bool:
        """Whether there are rows, and all of them are right."""
        return bool(self.values) and all(value >= 1 for value in self.values)


def still_rises(points: Sequence[ValidationPoint]) -> bool | None:
    """Return whether the last point is better than the one at half its steps; None if there is none so early.

    It is better if its values are, beyond chance, or if its loss is lower by LEAST_LOSS_FALL: a model that does not get
    a whole answer right yet shows there that it learns.

    >>> points = [ValidationPoint(10, [0.0] * 8, 2.0), ValidationPoint(20, [1.0] * 8, 1.99)]
    >>> still_rises(points), still_rises(points[:1])
    (True, None)
    >>> still_rises([*points, ValidationPoint(40, [1.0] * 8, 1.98)])
    False
    """
    half = _half(points)
    return None if half is None else _is_better(half, points[-1])


def reason_to_stop(points: Sequence[ValidationPoint]) -> str | None:
    """Return why a tuning ends after the last of its points, None if it goes on.

    It goes on if any point since half the steps is better than the one there: a single checkpoint may be worse than
    those around it.

    >>> perfect = [ValidationPoint(step, [1.0] * 5, 1 / step) for step in (1, 2)]
    >>> reason_to_stop(perfect), reason_to_stop(perfect[:1])
    ('all validation rows are right at two checkpoints in a row', None)
    """
    if len(points) > 1 and all(point.is_perfect for point in points[-2:]):
        return "all validation rows are right at two checkpoints in a row"
    half = _half(points)
    if half is not None and not any(_is_better(half, point) for point in points[points.index(half) + 1 :]):
        return "validation is no better than at half the steps"
    return None


def learning_outcome(points: Sequence[ValidationPoint]) -> str:
    """Return a line that tells a tuning that had not finished learning from one that learned all it could.

    >>> learning_outcome([ValidationPoint(10, [0.0] * 8, 2.0), ValidationPoint(20, [0.0] * 8, 2.0)])
    'validation did not rise: no row was right at any checkpoint, and more steps of the same will hardly help'
    >>> learning_outcome([ValidationPoint(10, [0.0] * 8, 2.0), ValidationPoint(20, [1.0] * 8, 0.1)])
    'validation: every row was right at the end'
    """
    if points and points[-1].is_perfect:
        return "validation: every row was right at the end"
    rises = still_rises(points)
    if rises is None:
        return "validation: too few checkpoints to see whether it still rises"
    if rises:
        return "validation was still rising at the end: more steps (tune.epochs) may help"
    if any(value != 0 for point in points for value in point.values):  # bits count below 0, and no row is right
        return "validation no longer rose at the end"
    return "validation did not rise: no row was right at any checkpoint, and more steps of the same will hardly help"


def _half(points: Sequence[ValidationPoint]) -> ValidationPoint | None:
    """Return the last point with at most half the steps of the last one, None if there is none."""
    return next((point for point in reversed(points) if 2 * point.step <= points[-1].step), None)


def _is_better(before: ValidationPoint, after: ValidationPoint) -> bool:
    return after.loss < (1 - LEAST_LOSS_FALL) * before.loss or _has_better_values(before.values, after.values)


def _has_better_values(before: Sequence[float], after: Sequence[float]) -> bool:
    if not before or len(before) != len(after):
        return False
    if set(before) | set(after) <= {0.0, 1.0}:
        return mcnemar([value == 1 for value in before], [value == 1 for value in after]).better
    return paired_permutation_test(before, after).better
