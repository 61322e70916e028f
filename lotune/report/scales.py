"""Ends and marks of the scales on which a report draws the values of its target metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lotune.evaluate.scorecard import Target
from lotune.report.sections import kind_lines


def scale_end(target: Target, values: Sequence[float] = ()) -> float:
    """Return the end of a scale from 0 for the target's metric and further `values` of it.

    It is 1 for accuracies, 100 for scores, and for bits per byte the first half bit above all figures.
    """
    if not target.lower_is_better:
        return 100.0 if target.in_points else 1.0
    lines = list(kind_lines(target))
    figures = [figure for line in lines for figure in (line.base, line.tuned) if figure is not None]
    limits = [end for line in lines for interval in (line.base_interval, line.interval) for end in interval or ()]
    return max(0.5, math.ceil(2 * max([*figures, *limits, *values])) / 2)


def scale_marks(target: Target) -> tuple[str, str, str]:
    """Return the texts at the start, the middle and the end of the scale of the table of kinds."""
    end = scale_end(target)
    return ("0", f"{end / 2:g}", f"{end:g}") if target.lower_is_better else ("0", "50", "100")
