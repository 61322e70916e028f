"""Plots as SVG text: pure functions from figures to a picture, without a plotting library.

Colours are CSS classes (`tuned`, `base`, `gate`, ...) that the page sets for light and dark; what a colour says, a
shape says too (hollow circle: base, filled square: tuned). Every plot has a title and a description for those who
cannot see it; `legend_swatch` draws the samples of its legend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from lotune.evaluate.statistics import Interval

MAX_POINTS = 400
"""Points of a curve at most: more cannot be told apart and make the page heavy."""
WIDE, NARROW = 880, 358
"""Widths that a plot is drawn for, in pixels: a desk and a phone."""


class Point(NamedTuple):
    """A place in a plot, in the units of its axes."""

    x: float
    y: float


class LabelledPoint(NamedTuple):
    """A labelled point: of the base, of a checkpoint (`tuned`), or of the chosen one."""

    point: Point
    label: str
    kind: str = "tuned"


@dataclass(frozen=True)
class Axis:
    """An axis: its name, its range, its ticks; `log` spaces by factors, `percent` writes fractions in percent."""

    name: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def share(self, value: float) -> float:
        """Where a value stands between the ends, 0 to 1.

        >>> Axis("", 0, 10).share(2.5), round(Axis("", 1, 100, log=True).share(10), 9)
        (0.25, 0.5)
        """
        low, high, value = (
            (math.log(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (value - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Round values on the axis."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, most)

    def shown(self, value: float) -> str:
        """A tick's text."""
        return f"{100 * value:.4g} %" if self.percent else f"{value:,.10g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two ends, at most so many, a step of 1, 2 or 5 times a power of ten apart.

    >>> ticks(0, 1), ticks(3, 740, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [200.0, 400.0, 600.0])
    """
    power = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    for step in (size * power for size in (1, 2, 5, 10, 20, 50)):
        places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(places) <= most:
            return [round(place * step, 12) for place in places]
    return [low, high]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten with their doubles and fives between two positive ends.

    >>> log_ticks(0.04, 3)
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(size * 10.0**power, 12) for power in powers for size in (1, 2, 5)]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def downsample(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Neighbouring points replaced by their means, so that at most so many are left.

    >>> downsample([Point(1, 2), Point(2, 4), Point(3, 6), Point(4, 8)], most=2)
    [Point(x=1.5, y=3.0), Point(x=3.5, y=7.0)]
    """
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """Each point's y replaced by the mean of its neighbours within half a window.

    >>> [point.y for point in smoothed([Point(0, 0), Point(1, 3), Point(2, 6)], 3)]
    [1.5, 3.0, 4.5]
    """
    half = window // 2
    sums = [0.0]
    for point in points:
        sums.append(sums[-1] + point.y)
    ends = [(max(0, place - half), min(len(points), place + half + 1)) for place in range(len(points))]
    return [Point(point.x, (sums[b] - sums[a]) / (b - a)) for point, (a, b) in zip(points, ends, strict=True)]


def loss_plot(training: Sequence[Point], validation: Sequence[Point], width: int) -> str:
    """The training loss over the steps, raw and smoothed, with the validation loss at the checkpoints."""
    losses = [point.y for point in (*training, *validation)]
    plot = Canvas(width, _axis("step", [0.0, *(point.x for point in training)]), _loss_axis(losses))
    curve = downsample(training)
    plot.line(curve, "train raw")
    plot.line(smoothed(curve, max(1, len(curve) // 25)), "train")
    plot.line(validation, "validation")
    for point in validation:
        plot.dot(point, "validation")
    last = f"; validation ends at {validation[-1].y:.4f}" if validation else ""
    text = f"Training loss from {training[0].y:.4f} to {training[-1].y:.4f} over {training[-1].x:.0f} steps{last}."
    return plot.svg("Loss", text)


def validation_plot(points: Sequence[LabelledPoint], axis_name: str, percent: bool, width: int) -> str:
    """The validation figure of each checkpoint over the steps; the chosen one stands out."""
    places = [mark.point for mark in points]
    highest = 1.0 if percent else 100.0
    x = _axis("step", [0.0, *(place.x for place in places)])
    plot = Canvas(width, x, Axis(axis_name, 0.0, highest, percent=percent))
    plot.line(places, "tuned")
    plot.marks(points)
    text = "; ".join(f"{mark.label}: {plot.y.shown(mark.point.y)}" for mark in points) + "."
    return plot.svg("Validation at the checkpoints", text)


def target_vs_retention_plot(
    points: Sequence[LabelledPoint], threshold: float, axis_name: str, percent: bool, width: int
) -> str:
    """The target's figure against the share kept, a point a checkpoint and one for the base; the gate is a line."""
    kept = [mark.point.x for mark in points]
    low, high = min([*kept, threshold]), max([*kept, threshold])
    room = max(0.02, 0.12 * (high - low))
    x = Axis("kept, lowest gated metric", max(0.0, low - room), high + room, percent=True)
    plot = Canvas(width, x, Axis(axis_name, 0.0, 1.0 if percent else 100.0, percent=percent))
    plot.gate(threshold)
    plot.marks(points)
    figures = (f"{mark.label}: kept {mark.point.x:.1%}, {plot.y.shown(mark.point.y)}" for mark in points)
    return plot.svg("Target against retention", "; ".join(figures) + f"; the gate is at {threshold:.0%}.")


def interval_strip(
    base: float, base_interval: Interval | None, tuned: float, interval: Interval | None, label: str
) -> str:
    """Two figures (shares of the scale, 0 to 1) with their intervals, where there are any, as wide as their cell.

    >>> interval_strip(0.1, None, 0.9, Interval(0.8, 1.0), "add").count("<circle")
    1
    """
    parts = [*_grid(), _whisker(base_interval, 8, "base"), _whisker(interval, 18, "tuned")]
    parts.append(f'<circle class="base" cx="{_percent(base)}" cy="8" r="4"/>')
    parts.append(f'<rect class="tuned" x="{_percent(tuned)}" y="14" width="8" height="8" transform="translate(-4 0)"/>')
    return _strip(parts, label)


def retention_bar(kept: float | None, threshold: float, label: str, *, passed: bool, full: float = 1.2) -> str:
    """A bar of the share kept against the gate; the scale ends at `full`."""
    parts = [f'<line class="grid" x1="{_percent(1 / full)}" x2="{_percent(1 / full)}" y1="0" y2="26"/>']
    if kept is not None:
        span = 96 * min(kept, full) / full
        parts.append(
            f'<rect class="{"kept" if passed else "missed"}" x="2%" y="7" width="{span:.2f}%" height="12" rx="2"/>'
        )
    place = _percent(threshold / full)
    parts += [f'<line class="{kind}" x1="{place}" x2="{place}" y1="1" y2="25"/>' for kind in ("halo", "gate")]
    return _strip(parts, label)


def _strip(parts: Iterable[str], label: str) -> str:
    content = "".join(parts)
    return f'<svg class="strip" width="100%" height="26" role="img" aria-label={quoteattr(label)}>{content}</svg>'


def _grid() -> list[str]:
    places = map(_percent, (0.0, 0.25, 0.5, 0.75, 1.0))
    return [f'<line class="grid" x1="{place}" x2="{place}" y1="0" y2="26"/>' for place in places]


def _whisker(interval: Interval | None, y: int, kind: str) -> str:
    if interval is None:
        return ""
    return f'<line class="{kind}" x1="{_percent(interval.low)}" x2="{_percent(interval.high)}" y1="{y}" y2="{y}"/>'


def _percent(share: float) -> str:
    """A place on a strip whose scale begins and ends 2 % from its edges.

    >>> _percent(0), _percent(0.5), _percent(1)
    ('2.00%', '50.00%', '98.00%')
    """
    return f"{2 + 96 * share:.2f}%"


def _axis(name: str, values: Sequence[float]) -> Axis:
    return Axis(name, min(values), max(max(values), min(values) + 1))


def _loss_axis(losses: Sequence[float]) -> Axis:
    """From zero, or by factors where the losses span more than a factor of twenty."""
    low, high = min(losses), max(losses)
    if low > 0 and high > 20 * low:
        return Axis("loss (log scale)", low / 1.1, high * 1.1, log=True)
    return Axis("loss", 0.0, 1.05 * high or 1.0)


class Box(NamedTuple):
    """The room that a text takes."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two boxes share room.

        >>> Box(0, 0, 2, 2).meets(Box(1, 1, 3, 3)), Box(0, 0, 2, 2).meets(Box(2, 0, 3, 2))
        (True, False)
        """
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


class Canvas:
    """A plot under construction: axes, and the marks put on it so far."""

    LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 46
    GLYPH = 7.4
    """Mean width of a character in pixels, a little too large."""

    def __init__(self, width: int, x: Axis, y: Axis) -> None:
        self.width, self.height = width, 340 if width >= 600 else 270
        self.x, self.y = x, y
        self._parts: list[str] = []
        self._taken: list[Box] = []

    def line(self, points: Sequence[Point], kind: str) -> None:
        """A curve through points; nothing for fewer than two."""
        if len(points) > 1:
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._place, points))
            self._parts.append(f'<polyline class="{kind}" points="{places}"/>')

    def dot(self, point: Point, kind: str) -> None:
        """A point in the shape of its kind."""
        x, y = self._place(point)
        self._parts.append(_shape(kind, x, y))
        self._taken.append(Box(x - 7, y - 7, x + 7, y + 7))

    def marks(self, marks: Sequence[LabelledPoint]) -> None:
        """Points, and of their labels those for which there is room; the chosen one's has the first choice."""
        for mark in marks:
            self.dot(mark.point, mark.kind)
        for mark in sorted(marks, key=lambda mark: mark.kind != "chosen"):
            self._label(mark)

    def _label(self, mark: LabelledPoint) -> None:
        x, y = self._place(mark.point)
        size = len(mark.label) * self.GLYPH
        beside = [("", x + 10, y - 8), ("end", x - 10, y - 8)]
        over = [("middle", x, y - 26), ("middle", x, y + 10)]
        if x - size < self.LEFT:
            over += [("", self.LEFT + 1, y - 26), ("", self.LEFT + 1, y + 10)]
        if x + size > self.width:
            over += [("end", self.width - 2, y - 26), ("end", self.width - 2, y + 10)]
        for anchor, place, top in beside + over:
            start = place - {"": 0.0, "middle": size / 2, "end": size}[anchor]
            box = Box(start, top, start + size, top + 16)
            if self._inside(box) and not any(box.meets(other) for other in self._taken):
                self._taken.append(box)
                text = f'<text class="label {anchor}" x="{place:.1f}" y="{top + 12:.1f}">{escape(mark.label)}</text>'
                self._parts.append(text)
                return

    def gate(self, threshold: float) -> None:
        """The least share that must be kept, as an upright line."""
        x = self._place(Point(threshold, self.y.low))[0]
        self._parts.append(f'<line class="gate" x1="{x:.1f}" x2="{x:.1f}" y1="{self.TOP}" y2="{self._floor}"/>')
        self._taken.append(Box(x - 2, self.TOP, x + 2, self._floor))

    def svg(self, title: str, description: str) -> str:
        """The finished plot."""
        body = "".join([*self._axes(), *self._parts])
        return (
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f"aria-label={quoteattr(f'{title}. {description}')}>"
            f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
        )

    @property
    def _floor(self) -> int:
        return self.height - self.BOTTOM

    def _place(self, point: Point) -> tuple[float, float]:
        x = self.LEFT + self.x.share(point.x) * (self.width - self.LEFT - self.RIGHT)
        return x, self._floor - self.y.share(point.y) * (self._floor - self.TOP)

    def _inside(self, box: Box) -> bool:
        return (
            box.left >= self.LEFT and box.right <= self.width and box.top >= self.TOP - 8 and box.bottom <= self._floor
        )

    def _axes(self) -> list[str]:
        right, parts = self.width - self.RIGHT, []
        for value in _apart([(self._place(Point(self.x.low, v))[1], v) for v in self.y.ticks(6)], 18):
            y = self._place(Point(self.x.low, value))[1]
            parts.append(f'<line class="grid" x1="{self.LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick end" x="{self.LEFT - 8}" y="{y + 4:.1f}">{self.y.shown(value)}</text>')
        for value in self.x.ticks(8 if self.width >= 600 else 4):
            x = self._place(Point(value, self.y.low))[0]
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self._floor}" y2="{self._floor + 4}"/>')
            parts.append(f'<text class="tick middle" x="{x:.1f}" y="{self._floor + 18}">{self.x.shown(value)}</text>')
        parts.append(f'<line class="axis" x1="{self.LEFT}" x2="{right}" y1="{self._floor}" y2="{self._floor}"/>')
        parts.append(f'<text class="name" x="4" y="14">{escape(self.y.name)}</text>')
        parts.append(f'<text class="name end" x="{right}" y="{self.height - 8}">{escape(self.x.name)}</text>')
        return parts


def _apart(placed: Sequence[tuple[float, float]], least: float) -> list[float]:
    """The values whose places are at least so many pixels apart, from the first on.

    >>> _apart([(100, 1.0), (95, 2.0), (70, 5.0)], 10)
    [1.0, 5.0]
    """
    kept: list[tuple[float, float]] = []
    for place, value in placed:
        if not kept or abs(kept[-1][0] - place) >= least:
            kept.append((place, value))
    return [value for _, value in kept]


def _shape(kind: str, x: float, y: float) -> str:
    if kind == "chosen":
        return f'<path class="chosen" d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>'
    if kind in ("tuned", "kept"):
        return f'<rect class="{kind}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def legend_swatch(kind: str) -> str:
    """A sample of what a legend names: a line, a shape, or both.

    >>> legend_swatch("gate")
    '<svg class="key" width="22" height="14" aria-hidden="true"><line class="gate" x1="2" x2="20" y1="7" y2="7"/></svg>'
    """
    line = f'<line class="{kind}" x1="2" x2="20" y1="7" y2="7"/>' if kind in ("train", "gate", "validation") else ""
    shape = "" if kind in ("train", "gate") else _shape(kind, 11, 7)
    return f'<svg class="key" width="22" height="14" aria-hidden="true">{line}{shape}</svg>'
