"""Table and note of a report on the strengths of the adapter that were tried."""

from __future__ import annotations

from lotune.evaluate.scorecard import Target
from lotune.evaluate.strength import StrengthSearch
from lotune.report.sections import Table, retained_text
from lotune.report.terminal import format_metric


def strength_table(search: StrengthSearch, target: Target) -> Table:
    """Return validation metric, retained fraction and gate at each strength that was tried, the highest first."""
    gates = {None: "–", True: "passed", False: "failed"}
    rows = [
        (
            point.label + (" (chosen)" if point.strengths == search.chosen else ""),
            format_metric(point.value, target),
            "–" if point.retained is None else retained_text(point.retained),
            gates[point.passed],
        )
        for point in sorted(search.points, key=lambda point: point.strengths, reverse=True)
    ]
    return Table(("strength", "validation", "kept on validation", "gate"), tuple(rows), numeric=True)


def strength_note(search: StrengthSearch) -> str:
    """Return a note on what a strength is."""
    return (
        f"The change that the adapter of {search.checkpoint} makes, multiplied by the strength (for each group of "
        "layers, the first ones first). What is merged and tested is the adapter at the chosen strength."
    )
