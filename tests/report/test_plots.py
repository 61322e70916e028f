"""Plots: well-formed pictures whose labels do not lie on one another."""

from __future__ import annotations

import math
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.evaluate.statistics import Interval
from lotune.report.canvas import Box, Canvas, LabelledPoint, Point, log_ticks, ticks
from lotune.report.plots import (
    MAX_POINTS,
    NARROW,
    WIDE,
    downsample,
    interval_strip,
    legend_swatch,
    loss_plot,
    moving_average,
    retention_bar,
    target_vs_retention_plot,
    validation_plot,
)

SHARES = st.floats(0, 1)
ODD = '<b> & "x"'


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def label_boxes(svg: str) -> list[Box]:
    """The room of each label of a plot, from its place, its anchor and its length."""
    boxes = []
    for text in parsed(svg).iter("text"):
        kind = (text.get("class") or "").split()
        if "label" in kind:
            size, x, y = len(text.text or "") * 7.0, float(text.get("x", "0")), float(text.get("y", "0"))
            left = x - (size if "end" in kind else size / 2 if "middle" in kind else 0)
            boxes.append(Box(left, y - 11, left + size, y + 3))
    return boxes


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_loss_plot(width: int) -> None:
    training = [Point(step, 2 / step + 0.01) for step in range(1, 3001)]
    svg = loss_plot(training, [Point(1000, 0.5), Point(3000, 0.25)], width)
    root = parsed(svg)
    assert root.get("viewBox", "").split()[2] == str(width)
    assert [child.tag for child in root][:2] == ["title", "desc"]
    assert "2.0100 to 0.0107 over 3000 steps; validation ends at 0.2500" in (root.findtext("desc") or "")
    assert "log scale" in svg
    curves = [line.get("points", "").split() for line in root.iter("polyline")]
    assert [len(curve) for curve in curves] == [375, 375, 2]
    for curve in curves:
        for place in curve:
            x, y = map(float, place.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= float(root.get("viewBox", "").split()[3])


@pytest.mark.parametrize(
    ("training", "validation"),
    [([Point(1, 0.5)], []), ([Point(1, 0.0), Point(2, 0.0)], [Point(2, 0.0)]), ([Point(5, 3.0)] * 3, [Point(5, 1)])],
)
def test_a_loss_plot_of_little(training: list[Point], validation: list[Point]) -> None:
    svg = loss_plot(training, validation, NARROW)
    assert parsed(svg).tag == "svg"
    assert "nan" not in svg


def test_labels_are_escaped() -> None:
    mark = LabelledPoint(Point(1, 0.5), ODD, "chosen")
    for svg in (
        validation_plot([mark], ODD, 1.0, WIDE, percent=True),
        target_vs_retention_plot([mark], 0.9, ODD, 1.0, WIDE, percent=True),
        interval_strip(0.2, None, 0.4, Interval(0.3, 0.5), ODD),
        retention_bar(0.9, 0.95, ODD, passed=False),
    ):
        assert "<b>" not in svg
        assert ODD in (parsed(svg).get("aria-label") or "")


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=12), st.sampled_from([WIDE, NARROW]))
def test_labels_do_not_overlap_and_stay_inside(places: list[tuple[float, float]], width: int) -> None:
    marks = [
        LabelledPoint(Point(retained, value), f"step-{number:06d}") for number, (retained, value) in enumerate(places)
    ]
    svg = target_vs_retention_plot(marks, 0.9, "test accuracy", 1.0, width, percent=True)
    boxes = label_boxes(svg)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(box.left >= Canvas.LEFT and box.right <= width for box in boxes)
    assert len(list(parsed(svg).iter("rect"))) == len(places)


def test_the_chosen_one_has_the_first_choice_of_room() -> None:
    marks = [LabelledPoint(Point(0.95, 0.5), f"step-{number}") for number in range(9)]
    svg = target_vs_retention_plot(
        [*marks, LabelledPoint(Point(0.95, 0.5), "picked", "chosen")], 0.9, "accuracy", 1.0, NARROW, percent=True
    )
    assert "picked" in [text.text for text in parsed(svg).iter("text")]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_within(low: float, span: float, most: int) -> None:
    high = low + span
    results = ticks(low, high, most)
    slack = 1e-6 * max(abs(low), abs(high), span)
    assert len(results) <= most
    assert all(low - slack <= value <= high + slack for value in results)
    assert results == sorted(set(results))


@given(st.floats(1e-6, 1e3), st.floats(2, 1e6))
def test_log_ticks_are_within(low: float, factor: float) -> None:
    results = log_ticks(low, low * factor)
    assert all(low * 0.999 <= value <= low * factor * 1.001 for value in results)
    assert factor < 5 or results


@given(st.lists(st.floats(0, 10), min_size=1, max_size=2000))
def test_thinning_and_smoothing_keep_the_course(losses: list[float]) -> None:
    points = [Point(step, loss) for step, loss in enumerate(losses)]
    few = downsample(points)
    assert len(few) <= MAX_POINTS
    for curve in (few, moving_average(points, 5)):
        assert min(losses) - 1e-9 <= min(point.y for point in curve)
        assert max(point.y for point in curve) <= max(losses) + 1e-9
        assert all(math.isfinite(point.y) for point in curve)


def test_strips() -> None:
    image = parsed(retention_bar(1.7, 0.9, "f1", passed=True))
    bar = next(iter(image.iter("rect")))
    assert bar.get("width") == "96.00%"  # the scale ends before 170 %
    assert bar.get("class") == "kept"
    assert next(iter(parsed(retention_bar(0.5, 0.9, "f1", passed=False)).iter("rect"))).get("class") == "missed"
    assert not list(parsed(retention_bar(None, 0.9, "f1", passed=False)).iter("rect"))
    whiskers = parsed(interval_strip(0.1, Interval(0.0, 0.3), 0.9, Interval(0.8, 1.0), "add"))
    assert {line.get("class") for line in whiskers.iter("line")} == {"grid", "base", "tuned"}


@pytest.mark.parametrize("kind", ["base", "tuned", "kept", "chosen", "gate", "train", "validation"])
def test_legend_keys_are_pictures(kind: str) -> None:
    assert kind in {part.get("class") for part in parsed(legend_swatch(kind))}
