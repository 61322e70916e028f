"""Plots of a report as SVG text: pure functions of the figures, without a plotting library.

Colours are CSS classes (`tuned`, `base`, `gate`, ...), for which the page has a light and a dark palette. Shapes carry
the same information (hollow circle: base, filled square: tuned), and every plot has a title and a description.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import quoteattr

from lotune.evaluate.statistics import Interval
from lotune.report.canvas import Axis, Canvas, LabelledPoint, Point, marker

MAX_POINTS = 400
"""Most points of a curve; more cannot be distinguished and would make the page large."""
WIDE, NARROW = 880, 358
"""Widths of a plot in pixels, for a desktop and for a phone."""


def downsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return the means of neighbouring points, at most `limit` of them.

    >>> downsample([Point(1, 2), Point(2, 4), Point(3, 6), Point(4, 8)], limit=2)
    [Point(x=1.5, y=3.0), Point(x=3.5, y=7.0)]
    """
    size = max(1, math.ceil(len(points) / limit))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def moving_average(points: Sequence[Point], window: int) -> list[Point]:
    """Return the moving average of points over a window, which is cut off at the ends.

    >>> [point.y for point in moving_average([Point(0, 0), Point(1, 3), Point(2, 6)], 3)]
    [1.5, 3.0, 4.5]
    """
    half = window // 2
    sums = [0.0]
    for point in points:
        sums.append(sums[-1] + point.y)
    spans = [(max(0, index - half), min(len(points), index + half + 1)) for index in range(len(points))]
    # Differences of cumulative sums take one addition per point, whatever the window.
    return [Point(point.x, (sums[b] - sums[a]) / (b - a)) for point, (a, b) in zip(points, spans, strict=True)]


def loss_plot(training: Sequence[Point], validation: Sequence[Point], width: int) -> str:
    """Plot the training loss by step, raw and smoothed, and the validation loss at the checkpoints."""
    losses = [point.y for point in (*training, *validation)]
    plot = Canvas(width, _axis("step", [0.0, *(point.x for point in training)]), _loss_axis(losses))
    curve = downsample(training)
    plot.line(curve, "train raw")
    # Downsampled first, so that the window is 1/25 of the curve for any number of steps.
    plot.line(moving_average(curve, max(1, len(curve) // 25)), "train")
    plot.line(validation, "validation")
    for point in validation:
        plot.dot(point, "validation")
    last = f"; validation ends at {validation[-1].y:.4f}" if validation else ""
    text = f"Training loss from {training[0].y:.4f} to {training[-1].y:.4f} over {training[-1].x:.0f} steps{last}."
    return plot.svg("Loss", text)


def bits_plot(points: Sequence[Point], width: int) -> str:
    """Plot the bits per byte of held-out text by step, from the lowest to the highest."""
    values = [point.y for point in points]
    margin = 0.05 * (max(values) - min(values)) or 0.05
    x = _axis("step", [0.0, *(point.x for point in points)])
    plot = Canvas(width, x, Axis("bits per byte", max(0.0, min(values) - margin), max(values) + margin))
    plot.line(points, "validation")
    for point in points:
        plot.dot(point, "validation")
    return plot.svg("Bits per byte", f"From {values[0]:.3f} to {values[-1]:.3f} over {points[-1].x:.0f} steps.")


BINS = 10
"""Bars of a histogram of scores from 0 to 100."""


def histogram(groups: Sequence[tuple[str, Sequence[float]]], axis_name: str, width: int) -> str:
    """Plot how many scores, 0 to 100, lie in each tenth, for groups of scores; a group has the kind of its points."""
    counts = [(kind, score_counts(scores)) for kind, scores in groups]
    most = max(max(numbers) for _, numbers in counts)
    plot = Canvas(width, Axis(axis_name, 0.0, 100.0), Axis("rows", 0.0, max(1.0, 1.05 * most)))
    step = 100 / BINS
    for kind, numbers in counts:
        edges = [(number * step, count) for number, count in enumerate(numbers)]
        plot.line([Point(x, y) for left, y in edges for x in (left, left + step)], kind)
        for left, y in edges:
            plot.dot(Point(left + step / 2, y), kind)
    text = "; ".join(f"{kind}: {', '.join(map(str, numbers))}" for kind, numbers in counts)
    return plot.svg(axis_name, f"Rows by tenth of the scale. {text}.")


def score_counts(scores: Sequence[float]) -> list[int]:
    """Return how many scores, 0 to 100, lie in each tenth of the scale.

    >>> score_counts([0, 9.9, 10, 95, 100])
    [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    """
    counts = [0] * BINS
    for score in scores:
        counts[min(BINS - 1, int(score * BINS // 100))] += 1
    return counts


def memorization_plot(
    curves: Mapping[tuple[str, float], Sequence[Point]], axis_name: str, width: int, *, percent: bool
) -> str:
    """Plot a metric by epochs for (part, temperature): filled squares for seen rows, hollow circles for unseen ones."""
    points = [point for curve in curves.values() for point in curve]
    x = _axis("epochs", [0.0, *(point.x for point in points)])
    highest = 1.0 if percent else max(100.0, *(point.y for point in points))
    plot = Canvas(width, x, Axis(axis_name, 0.0, highest, percent=percent))
    labelled = list[LabelledPoint]()
    for (part, temperature), curve in curves.items():
        kind = "tuned" if part == "seen" else "base"
        plot.line(curve, kind)
        # In the middle: at their ends, curves of rows that are known by heart meet.
        named = len(curve) // 2
        labelled += [
            LabelledPoint(point, f"{part}, {temperature:g}" if number == named else "", kind)
            for number, point in enumerate(curve)
        ]
    plot.labelled_points(labelled)
    ends = (
        f"{part} at temperature {temperature:g}: {plot.y.format_tick(curve[-1].y)}"
        for (part, temperature), curve in curves.items()
    )
    return plot.svg("Seen and unseen questions", f"After {x.high:g} epochs: {'; '.join(ends)}.")


def validation_plot(
    points: Sequence[LabelledPoint], axis_name: str, highest: float, width: int, *, percent: bool
) -> str:
    """Plot the validation metric of each checkpoint, 0 to `highest`, by step; the chosen one stands out."""
    curve = [labelled.point for labelled in points]
    x = _axis("step", [0.0, *(point.x for point in curve)])
    plot = Canvas(width, x, Axis(axis_name, 0.0, highest, percent=percent))
    plot.line(curve, "tuned")
    plot.labelled_points(points)
    text = "; ".join(f"{labelled.label}: {plot.y.format_tick(labelled.point.y)}" for labelled in points) + "."
    return plot.svg("Validation at the checkpoints", text)


def watched_plot(points: Sequence[LabelledPoint], threshold: float, width: int) -> str:
    """Plot the retained fraction of each checkpoint on the validation rows by step, and the gate as a level line."""
    curve = [labelled.point for labelled in points]
    x = _axis("step", [0.0, *(point.x for point in curve)])
    retained = [point.y for point in curve]
    plot = Canvas(width, x, Axis("retained, lowest gated metric", 0.0, max(1.0, *retained), percent=True))
    plot.line([Point(x.low, threshold), Point(x.high, threshold)], "gate")
    plot.line(curve, "tuned")
    plot.labelled_points(points)
    text = "; ".join(f"step {point.x:.0f}: {plot.y.format_tick(point.y)}" for point in curve)
    return plot.svg("Retention while tuning", f"{text}; the gate is at {threshold:.0%}.")


def target_vs_retention_plot(
    points: Sequence[LabelledPoint], threshold: float, axis_name: str, highest: float, width: int, *, percent: bool
) -> str:
    """Plot the target metric, 0 to `highest`, against the retained fraction of checkpoints and base, with the gate."""
    retained = [labelled.point.x for labelled in points]
    low, high = min([*retained, threshold]), max([*retained, threshold])
    margin = max(0.02, 0.12 * (high - low))  # points at the edge would have no space for their labels
    x = Axis("kept, lowest gated metric", max(0.0, low - margin), high + margin, percent=True)
    plot = Canvas(width, x, Axis(axis_name, 0.0, highest, percent=percent))
    plot.gate(threshold)
    plot.labelled_points(points)
    figures = (f"{p.label}: kept {p.point.x:.1%}, {plot.y.format_tick(p.point.y)}" for p in points)
    return plot.svg("Target against retention", "; ".join(figures) + f"; the gate is at {threshold:.0%}.")


def interval_strip(
    base: float, base_interval: Interval | None, tuned: float, interval: Interval | None, label: str
) -> str:
    """Draw two figures (fractions of the scale, 0 to 1) with their intervals, if any; as wide as its table cell.

    >>> interval_strip(0.1, None, 0.9, Interval(0.8, 1.0), "add").count("<circle")
    1
    """
    parts = [*_grid(), _whisker(base_interval, 8, "base"), _whisker(interval, 18, "tuned")]
    parts.append(f'<circle class="base" cx="{_percent(base)}" cy="8" r="4"/>')
    parts.append(f'<rect class="tuned" x="{_percent(tuned)}" y="14" width="8" height="8" transform="translate(-4 0)"/>')
    return _strip(parts, label)


def retention_bar(retained: float | None, threshold: float, label: str, *, passed: bool, full: float = 1.2) -> str:
    """Draw a bar of the retained fraction with the threshold of the gate; the scale ends at `full`."""
    parts = [f'<line class="grid" x1="{_percent(1 / full)}" x2="{_percent(1 / full)}" y1="0" y2="26"/>']
    if retained is not None:
        span = 96 * min(retained, full) / full
        parts.append(
            f'<rect class="{"kept" if passed else "missed"}" x="2%" y="7" width="{span:.2f}%" height="12" rx="2"/>'
        )
    x = _percent(threshold / full)
    # The halo, in the colour of the page, keeps the line visible on the bar.
    parts += [f'<line class="{kind}" x1="{x}" x2="{x}" y1="1" y2="25"/>' for kind in ("halo", "gate")]
    return _strip(parts, label)


def _strip(parts: Iterable[str], label: str) -> str:
    content = "".join(parts)
    return f'<svg class="strip" width="100%" height="26" role="img" aria-label={quoteattr(label)}>{content}</svg>'


def _grid() -> list[str]:
    positions = map(_percent, (0.0, 0.25, 0.5, 0.75, 1.0))
    return [f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="26"/>' for x in positions]


def _whisker(interval: Interval | None, y: int, kind: str) -> str:
    if interval is None:
        return ""
    return f'<line class="{kind}" x1="{_percent(interval.low)}" x2="{_percent(interval.high)}" y1="{y}" y2="{y}"/>'


def _percent(fraction: float) -> str:
    """Return a position on a strip, whose scale begins and ends 2 % from its edges.

    >>> _percent(0), _percent(0.5), _percent(1)
    ('2.00%', '50.00%', '98.00%')
    """
    return f"{2 + 96 * fraction:.2f}%"


def _axis(name: str, values: Sequence[float]) -> Axis:
    # At least one unit long: a training of one step would have an axis of length zero, by which `fraction` divides.
    return Axis(name, min(values), max(max(values), min(values) + 1))


def _loss_axis(losses: Sequence[float]) -> Axis:
    """Return an axis from zero, or a logarithmic one if the losses span more than a factor of 20."""
    low, high = min(losses), max(losses)
    if low > 0 and high > 20 * low:
        return Axis("loss (log scale)", low / 1.1, high * 1.1, log=True)
    return Axis("loss", 0.0, 1.05 * high or 1.0)


def legend_swatch(kind: str) -> str:
    """Return the sample beside an entry of the legend: a line, a shape, or both.

    >>> legend_swatch("gate")
    '<svg class="key" width="22" height="14" aria-hidden="true"><line class="gate" x1="2" x2="20" y1="7" y2="7"/></svg>'
    """
    line = f'<line class="{kind}" x1="2" x2="20" y1="7" y2="7"/>' if kind in ("train", "gate", "validation") else ""
    shape = "" if kind in ("train", "gate") else marker(kind, 11, 7)
    return f'<svg class="key" width="22" height="14" aria-hidden="true">{line}{shape}</svg>'
