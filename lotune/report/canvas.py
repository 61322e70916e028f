"""Canvas of a plot: axes with ticks, curves, points, and labels that do not overlap, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr


class Point(NamedTuple):
    """A point of a plot, in the units of its axes."""

    x: float
    y: float


class LabelledPoint(NamedTuple):
    """A point with a label; its kind is base, tuned (a checkpoint) or chosen."""

    point: Point
    label: str
    kind: str = "tuned"


@dataclass(frozen=True)
class Axis:
    """An axis with its name and range; `log` makes its scale logarithmic, `percent` shows fractions as percentages."""

    name: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def fraction(self, value: float) -> float:
        """Return the position of a value on the axis, from 0 (low) to 1 (high).

        >>> Axis("", 0, 10).fraction(2.5), round(Axis("", 1, 100, log=True).fraction(10), 9)
        (0.25, 0.5)
        """
        low, high, value = (
            (math.log(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (value - low) / (high - low)

    def ticks(self, limit: int) -> list[float]:
        """Return round values on the axis; a logarithmic axis may have more than `limit`."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, limit)

    def format_tick(self, value: float) -> str:
        """Return the text of a tick."""
        return f"{100 * value:.4g} %" if self.percent else f"{value:,.10g}"


def ticks(low: float, high: float, limit: int = 6) -> list[float]:
    """Return at most `limit` round values in a range, in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1), ticks(3, 740, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [200.0, 400.0, 600.0])
    """
    power = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    for step in (size * power for size in (1, 2, 5, 10, 20, 50)):
        # The tolerance keeps a tick at an end that rounding puts just outside, such as 0.6 / 0.2.
        multiples = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(multiples) <= limit:
            return [round(multiple * step, 12) for multiple in multiples]
    return [low, high]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten in a range of positive numbers.

    >>> log_ticks(0.04, 3)
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(size * 10.0**power, 12) for power in powers for size in (1, 2, 5)]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


class Box(NamedTuple):
    """A rectangle in pixels, such as that of a text; y grows downwards, as in SVG."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether two boxes overlap.

        >>> Box(0, 0, 2, 2).overlaps(Box(1, 1, 3, 3)), Box(0, 0, 2, 2).overlaps(Box(2, 0, 3, 2))
        (True, False)
        """
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


class Canvas:
    """A plot under construction: axes, and the elements added so far; sizes are in pixels."""

    LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 46
    GLYPH = 7.4
    """Mean width of a character, slightly too large: fonts differ, and a label must not overlap in any of them."""

    def __init__(self, width: int, x: Axis, y: Axis) -> None:
        self.width, self.height = width, 340 if width >= 600 else 270
        self.x, self.y = x, y
        self._parts: list[str] = []
        self._occupied: list[Box] = []

    def line(self, points: Sequence[Point], kind: str) -> None:
        """Add a curve through points; fewer than two points draw nothing."""
        if len(points) > 1:
            coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._pixels, points))
            self._parts.append(f'<polyline class="{kind}" points="{coordinates}"/>')

    def dot(self, point: Point, kind: str) -> None:
        """Add a point in the shape of its kind."""
        x, y = self._pixels(point)
        self._parts.append(marker(kind, x, y))
        # The size of the largest marker, the diamond of the chosen checkpoint.
        self._occupied.append(Box(x - 7, y - 7, x + 7, y + 7))

    def labelled_points(self, points: Sequence[LabelledPoint]) -> None:
        """Add points, and those of their labels that overlap nothing."""
        # All points first, so that no label covers one; then the label of the chosen checkpoint, as it matters most.
        for labelled in points:
            self.dot(labelled.point, labelled.kind)
        for labelled in sorted(points, key=lambda labelled: labelled.kind != "chosen"):
            self._label(labelled)

    def _label(self, labelled: LabelledPoint) -> None:
        x, y = self._pixels(labelled.point)
        size = len(labelled.label) * self.GLYPH
        # Beside the point if possible, else above or below it, and near an edge aligned with that edge.
        beside = [("", x + 10, y - 8), ("end", x - 10, y - 8)]
        over = [("middle", x, y - 26), ("middle", x, y + 10)]
        if x - size < self.LEFT:
            over += [("", self.LEFT + 1, y - 26), ("", self.LEFT + 1, y + 10)]
        if x + size > self.width:
            over += [("end", self.width - 2, y - 26), ("end", self.width - 2, y + 10)]
        for anchor, left, top in beside + over:
            start = left - {"": 0.0, "middle": size / 2, "end": size}[anchor]
            box = Box(start, top, start + size, top + 16)
            if self._inside(box) and not any(box.overlaps(taken) for taken in self._occupied):
                self._occupied.append(box)
                text = escape(labelled.label)
                self._parts.append(f'<text class="label {anchor}" x="{left:.1f}" y="{top + 12:.1f}">{text}</text>')
                return

    def gate(self, threshold: float) -> None:
        """Add the threshold of the retention gate as a vertical line."""
        x = self._pixels(Point(threshold, self.y.low))[0]
        self._parts.append(f'<line class="gate" x1="{x:.1f}" x2="{x:.1f}" y1="{self.TOP}" y2="{self._floor}"/>')
        self._occupied.append(Box(x - 2, self.TOP, x + 2, self._floor))

    def svg(self, title: str, description: str) -> str:
        """Return the finished plot as an SVG element, with title and description for screen readers."""
        # SVG paints in order of appearance, so curves and points cover the grid.
        body = "".join([*self._axes(), *self._parts])
        return (
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f"aria-label={quoteattr(f'{title}. {description}')}>"
            f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
        )

    @property
    def _floor(self) -> int:
        return self.height - self.BOTTOM

    def _pixels(self, point: Point) -> tuple[float, float]:
        x = self.LEFT + self.x.fraction(point.x) * (self.width - self.LEFT - self.RIGHT)
        return x, self._floor - self.y.fraction(point.y) * (self._floor - self.TOP)

    def _inside(self, box: Box) -> bool:
        return (
            box.left >= self.LEFT and box.right <= self.width and box.top >= self.TOP - 8 and box.bottom <= self._floor
        )

    def _axes(self) -> list[str]:
        right, parts = self.width - self.RIGHT, []
        for value in _spaced([(self._pixels(Point(self.x.low, v))[1], v) for v in self.y.ticks(6)], 18):
            y = self._pixels(Point(self.x.low, value))[1]
            parts.append(f'<line class="grid" x1="{self.LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick end" x="{self.LEFT - 8}" y="{y + 4:.1f}">{self.y.format_tick(value)}</text>'
            )
        # On a phone the texts of eight ticks would run into one another.
        for value in self.x.ticks(8 if self.width >= 600 else 4):
            x = self._pixels(Point(value, self.y.low))[0]
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self._floor}" y2="{self._floor + 4}"/>')
            parts.append(
                f'<text class="tick middle" x="{x:.1f}" y="{self._floor + 18}">{self.x.format_tick(value)}</text>'
            )
        parts.append(f'<line class="axis" x1="{self.LEFT}" x2="{right}" y1="{self._floor}" y2="{self._floor}"/>')
        parts.append(f'<text class="name" x="4" y="14">{escape(self.y.name)}</text>')
        parts.append(f'<text class="name end" x="{right}" y="{self.height - 8}">{escape(self.x.name)}</text>')
        return parts


def _spaced(ticks: Sequence[tuple[float, float]], min_distance: float) -> list[float]:
    """Return the values of (pixel, value) pairs without those too close to the one before.

    >>> _spaced([(100, 1.0), (95, 2.0), (70, 5.0)], 10)
    [1.0, 5.0]
    """
    spaced: list[tuple[float, float]] = []
    for pixel, value in ticks:
        if not spaced or abs(spaced[-1][0] - pixel) >= min_distance:
            spaced.append((pixel, value))
    return [value for _, value in spaced]


def marker(kind: str, x: float, y: float) -> str:
    """Return the SVG shape of a kind of point, so that points differ without colours, too."""
    if kind == "chosen":
        return f'<path class="chosen" d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>'
    if kind in ("tuned", "kept"):
        return f'<rect class="{kind}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
