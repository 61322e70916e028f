"""Figures of a curve of losses: where it starts and ends, and how far it rises in between."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

START_STEPS = 5
"""The start is the mean loss of so many steps."""
END_FRACTION = 0.1
"""The end is the mean loss of this last fraction of the steps, and a rise is measured between means over as many."""
FEWEST_STEPS = 10
"""Steps of such a mean, at least: few small steps differ by the rows that they happen to have."""


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


def largest_rise(losses: Sequence[float]) -> float:
    """Return the largest ratio of a mean over some steps to the lowest such mean up to there, 1 at least.

    >>> largest_rise([4.0] * 10 + [2.0] * 10 + [3.0] * 10), largest_rise([2.0, 4.0])
    (1.5, 1.0)
    """
    window = max(FEWEST_STEPS, round(END_FRACTION * len(losses)))
    last = max(1, len(losses) - window + 1)
    means = [fmean(losses[first : first + window]) for first in range(last)]
    return max(mean / lowest for mean, lowest in zip(means, accumulate(means, min), strict=True))
