"""The leaderboard as a self-contained HTML page, with the Pareto front as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lotune.contest.leaderboard import Difference, Entry, Place, PublishedScore
from lotune.report.canvas import Axis, Canvas, LabelledPoint, Point
from lotune.report.html import page_environment, page_style
from lotune.report.plots import NARROW, WIDE
from lotune.text_display import show_control_characters

MAX_LABEL = 24
"""Most characters of a team's name in the picture."""


@dataclass(frozen=True)
class Leaderboard:
    """A ranking with its differences, and published rows beside it."""

    places: tuple[Place, ...]
    differences: tuple[Difference, ...]
    published: tuple[PublishedScore, ...]
    rule: str


def render_leaderboard(board: Leaderboard) -> str:
    """Return the page. Names are escaped, and links are only those of http and https."""
    template = page_environment().get_template("leaderboard.html.jinja")
    pictures = {"wide": Markup(front_plot(board, WIDE)), "narrow": Markup(front_plot(board, NARROW))}
    return template.render(board=board, style=page_style(), pictures=pictures)


def front_plot(board: Leaderboard, width: int) -> str:
    """Plot accuracy against ratio: valid results, the Pareto front, and published rows; empty without any."""
    valid = [place for place in board.places if place.rank is not None]
    points = [_point(place) for place in valid]
    points += [LabelledPoint(Point(one.ratio, one.accuracy), "", "base") for one in board.published]
    if not points:
        return ""
    plot = Canvas(width, _ratio_axis([point.point.x for point in points]), _accuracy_axis(points))
    front = sorted(Point(place.entry.ratio, place.entry.accuracy) for place in valid if place.on_front)
    plot.line(front, "tuned")
    plot.labelled_points(points)
    shown = "; ".join(f"{place.entry.team}: {place.entry.accuracy:.1%} at {place.entry.ratio:.3%}" for place in valid)
    return plot.svg("Accuracy against parameter ratio", show_control_characters(shown or "published rows") + ".")


def result_plot(entry: Entry, width: int) -> str:
    """Plot accuracy against ratio of a single result."""
    return front_plot(Leaderboard((Place(entry, 1, "", on_front=True),), (), (), entry.rule), width)


def _point(place: Place) -> LabelledPoint:
    name = show_control_characters(place.entry.team)
    label = name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"
    kind = "chosen" if place.on_front else "tuned"
    return LabelledPoint(Point(place.entry.ratio, place.entry.accuracy), label, kind)


def _ratio_axis(ratios: Sequence[float]) -> Axis:
    """Return an axis of the ratios, logarithmic if they span more than a factor of 5."""
    low, high = min(ratios), max(ratios)
    if low > 0 and high > 5 * low:
        return Axis("ratio (log scale)", low / 1.5, high * 1.5, log=True, percent=True)
    return Axis("ratio", 0.0, 1.25 * high or 1.0, percent=True)


def _accuracy_axis(points: Sequence[LabelledPoint]) -> Axis:
    highest = max(point.point.y for point in points)
    return Axis("accuracy", 0.0, min(1.0, 1.15 * highest) or 1.0, percent=True)
