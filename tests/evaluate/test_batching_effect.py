"""The effect of batching: which rows are generated again, what is compared, how much wider intervals become."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.examples import Example
from lotune.evaluate.batching_effect import (
    MAX_UNBATCHED_ROWS,
    measure_batching_effect,
    sample_unbatched_rows,
    widen,
    widen_metric,
    widen_target,
)
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import add_intervals, gate
from lotune.evaluate.scorecard import BatchingEffect
from lotune.evaluate.statistics import Interval
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.task import Score


def prediction(number: int, text: str = "1", right: bool | None = True, score: float = 100.0) -> Prediction:
    return Prediction(str(number), "1 =", text, Score(text, "1", right, {"squad_f1": score}), "")


@given(count=st.integers(0, 250), seed=st.integers(0, 9))
def test_rows_are_drawn_by_seed_and_stay_in_order(count: int, seed: int) -> None:
    examples = [Example(str(number), "", "") for number in range(count)]
    results = [int(row.id) for row in sample_unbatched_rows(examples, seed)]
    assert len(results) == len(set(results)) == min(count, MAX_UNBATCHED_ROWS)
    assert results == sorted(results) == [int(row.id) for row in sample_unbatched_rows(examples, seed)]


def test_texts_and_verdicts_are_counted() -> None:
    together = [prediction(number) for number in range(6)]
    alone = [
        prediction(4), prediction(3, "one"), prediction(2, "2", right=False), prediction(1, score=50.0),
        prediction(0, "?", right=None),
    ]  # fmt: skip
    result = measure_batching_effect(together, alone, "bfloat16")
    assert result == BatchingEffect(dtype="bfloat16", rows=5, texts=3, verdicts=3)
    assert result.changed_verdict_fraction == 0.6
    assert measure_batching_effect(together, [], "bfloat16").changed_verdict_fraction == 0


@given(low=st.floats(0, 1), width=st.floats(0, 1), by=st.floats(0, 1))
def test_an_interval_only_grows_and_stays_within_its_scale(low: float, width: float, by: float) -> None:
    interval = Interval(low, min(1.0, low + width))
    result = widen(interval, by)
    assert result is not None
    assert 0 <= result.low <= interval.low <= interval.high <= result.high <= 1
    assert result.low == pytest.approx(max(0.0, low - by))
    assert widen(None, by) is None


def test_all_figures_of_a_set_become_wider() -> None:
    def verdicts(right: int) -> list[ScoredExample]:
        judged = [(row, Score("", "", row < right)) for row in range(40)]
        return [ScoredExample(str(row), "ab"[row % 2], one) for row, one in judged]

    target = measure_target(ArithmeticTask(), verdicts(10), verdicts(20))
    assert widen_target(target, 0, 0) == target
    results = widen_target(target, 0.02, 0.05)
    assert target.interval is not None
    assert results.interval == Interval(target.interval.low - 0.05, target.interval.high + 0.05)
    for after, before in (
        (results, target),
        *zip(results.by_category.values(), target.by_category.values(), strict=True),
    ):
        assert before.base_interval is not None
        assert after.base_interval == Interval(before.base_interval.low - 0.02, before.base_interval.high + 0.02)
        assert after.value == before.value
    assert (results.p_value, results.n) == (target.p_value, target.n)


def test_a_retained_metric_is_in_points_and_the_ratio_follows() -> None:
    base, tuned = [80.0, 60.0, 40.0, 100.0] * 5, [70.0, 60.0, 30.0, 90.0] * 5
    line = add_intervals(gate({"f1": 70.0}, {"f1": 62.5})[0], base, tuned)
    result = widen_metric(line, 0.01, 0.02)
    assert None not in (line.base_interval, line.tuned_interval, line.retained_interval, line.retained)
    for name, by in (("base", 1.0), ("tuned", 2.0), ("retained", 100 * (0.02 + line.retained * 0.01) / 70)):  # type: ignore[operator]
        before, after = getattr(line, f"{name}_interval"), getattr(result, f"{name}_interval")
        assert after == pytest.approx((before.low - by, before.high + by))
    assert replace(result, base_interval=None, tuned_interval=None, retained_interval=None) == replace(
        line, base_interval=None, tuned_interval=None, retained_interval=None
    )
