"""An interval beside every metric: the counts' figures are the metrics' own, and intervals hold what they promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.evaluate.metric_intervals import FROM_COUNTS, drawn_counts, metric_intervals, primary_metric_interval
from lotune.evaluate.statistics import wilson
from lotune.tasks.metrics import balanced_accuracy, f1, matthews
from lotune.tasks.reading.task import ReadingSettings
from lotune.tasks.registry import build_task
from lotune.tasks.sentence_classification import SentencesSettings
from lotune.tasks.task import Score


def judged(pairs: Sequence[tuple[str, str | None]]) -> list[Score]:
    return [Score(read, key, read == key) for key, read in pairs]


class Once:
    """A generator that draws each row once."""

    def multinomial(self, n: int, shares: Any, draws: int) -> Any:
        return numpy.tile(numpy.rint(shares * n).astype(int), (draws, 1))


@given(st.lists(st.tuples(st.sampled_from("012"), st.sampled_from(["0", "1", "2", None])), min_size=1, max_size=60))
def test_of_the_rows_themselves_the_figures_are_the_metrics(pairs: list[tuple[str, str | None]]) -> None:
    rows = judged(pairs)
    generator: Any = Once()
    counts = drawn_counts(rows, "1", generator, draws=2)
    assert counts[0].sum() == 2 * len(rows)
    expected = {"balanced_accuracy": balanced_accuracy(rows), "f1": f1(rows, "1"), "matthews": matthews(rows)}
    assert set(expected) == set(FROM_COUNTS)
    for name, value in expected.items():
        assert FROM_COUNTS[name](*counts).tolist() == pytest.approx([value, value])


def test_every_metric_of_labelled_sentences() -> None:
    draw = Random(3)
    rows = judged([(key, key if draw.random() < 0.8 else "10"[int(key)]) for key in "0010111010" * 30])
    task = build_task(SentencesSettings())
    values, results = task.metrics([*rows, Score("1", "", None)]), metric_intervals(task, [*rows, Score("1", "", None)])
    assert set(results) == set(values) - {"unjudgeable"}
    assert (
        results["accuracy"]
        == wilson(sum(bool(row.correct) for row in rows), 300)
        == primary_metric_interval(task, rows)
    )
    for name, (low, high) in results.items():
        assert low < values[name] < high, name
        assert 0.03 < high - low < 0.25, name
    assert metric_intervals(task, rows) == metric_intervals(task, rows)


def test_the_interval_of_matthews_correlation_holds_the_truth() -> None:
    """Nine of ten keys of one label and a coin's answers: the correlation is 0, and 95 of 100 intervals hold it."""
    draw, held = Random(5), 0
    task = build_task(SentencesSettings())
    for _ in range(100):
        rows = judged([("1" if draw.random() < 0.9 else "0", draw.choice("01")) for _ in range(200)])
        low, high = metric_intervals(task, rows)["matthews"]
        held += low <= 0 <= high
    assert held >= 88


def test_means_of_scores() -> None:
    task = build_task(ReadingSettings())
    further = {"squad_f1": 50.0, "squad_em": 0.0, "cmrc_f1": 50.0, "cmrc_em": 0.0}
    rows = [
        Score("", "", n % 4 == 0, {"contest_f1": float(n % 100), "contest_em": 100.0 * (n % 4 == 0), **further})
        for n in range(200)
    ]
    result = metric_intervals(task, rows)
    assert set(result) == {"contest_f1", "contest_em", *further}
    assert result["squad_f1"] is None, "equal scores leave nothing to draw from"
    assert result["contest_em"].low < 25.0 < result["contest_em"].high


@dataclass(frozen=True)
class Own:
    """A task with a figure that only it can compute."""

    metric: str = "accuracy"
    score_name_by_metric: dict[str, str] = field(default_factory=dict)

    def metrics(self, rows: Sequence[Score]) -> dict[str, float]:
        right = sum(bool(row.correct) for row in rows)
        return {"accuracy": right / len(rows), "odds": right / (len(rows) - right + 1)}


def test_a_figure_that_only_its_task_can_compute() -> None:
    task: Any = Own()
    low, high = metric_intervals(task, judged([("1", "1"), ("1", "0")] * 30))["odds"]
    assert low < 30 / 31 < high
