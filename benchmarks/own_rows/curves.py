"""Figures of a curve of losses: where it starts and ends, and how far it rises in between."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

START_STEPS = 5
"""The start is the mean loss of so many steps."""
END_FRACTION = 0.1
"""The end is the mean loss of this last fraction of the steps."""
WINDOW = 10
"""A rise is measured between means over so many steps."""


def start_loss(losses: Sequence[float]) -> float:
    """Return the mean loss of the first steps.

    >>> start_loss([6.0, 4.0, 5.0, 6.0, 4.0, 0.1])
    5.0
    """
    return fmean(losses[:START_STEPS])


def end_loss(losses: Sequence[float]) -> float:
    """Return the mean loss of the last steps.

    >>> end_loss([9.0] * 18 + [1.0, 2.0])
    1.5
    """
    return fmean(losses[-max(1, round(END_FRACTION * len(losses))) :])


def largest_rise(losses: Sequence[float], window: int = WINDOW) -> float:
    """Return the largest ratio of a mean over `window` steps to the lowest such mean up to there, 1 at least.

    >>> largest_rise([4.0, 2.0, 3.0, 1.0], window=1), largest_rise([4.0, 2.0], window=10)
    (1.5, 1.0)
    """
    last = max(1, len(losses) - window + 1)
    means = [fmean(losses[first : first + window]) for first in range(last)]
    return max(mean / lowest for mean, lowest in zip(means, accumulate(means, min), strict=True))
