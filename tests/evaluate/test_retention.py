"""The gate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.evaluate.retention import add_intervals, gate, gate_passed
from lotune.evaluate.statistics import weighted_mean, wilson

LLAMA = {"contest_f1": 59.87023775108988, "contest_em": 44.17029511369134}


def test_the_contests_gates() -> None:
    above = gate(LLAMA, {"contest_f1": 53.883214, "contest_em": 39.753266})
    assert [line.passed for line in above] == [True, True]
    below = gate(LLAMA, {"contest_f1": 53.883213, "contest_em": 39.753266})
    assert [line.passed for line in below] == [False, True]
    assert gate_passed(above)
    assert not gate_passed(below)


def test_a_base_below_five_points_is_not_measurable() -> None:
    line, other = gate({"contest_f1": 4.99, "contest_em": 5.0}, {"contest_f1": 80.0, "contest_em": 5.0})
    assert (line.retained, line.passed) == (None, False)
    assert (other.retained, other.passed) == (1.0, True)
    assert not gate_passed([line, other])


def test_official_metrics_are_reported_and_do_not_gate() -> None:
    base = LLAMA | {"squad_f1": 60.0, "squad_em": 50.0}
    lines = gate(base, LLAMA | {"squad_f1": 10.0, "squad_em": 10.0})
    assert [(line.metric, line.is_gated, line.passed) for line in lines] == [
        ("contest_f1", True, True),
        ("contest_em", True, True),
        ("squad_f1", False, False),
        ("squad_em", False, False),
    ]
    assert gate_passed(lines)


def test_metrics_of_another_task_all_gate() -> None:
    assert [line.is_gated for line in gate({"rouge": 30.0}, {"rouge": 30.0})] == [True]


def test_other_metrics_after_tuning_are_refused() -> None:
    with pytest.raises(DataError):
        gate(LLAMA, {"contest_f1": 50.0})


@given(st.floats(5, 100), st.floats(0, 100), st.floats(0, 1))
def test_more_is_never_worse(base: float, tuned: float, threshold: float) -> None:
    (line,) = gate({"m": base}, {"m": tuned}, min_retained=threshold)
    (more,) = gate({"m": base}, {"m": tuned + 1}, min_retained=threshold)
    assert more.passed >= line.passed
    assert gate({"m": base}, {"m": base}, min_retained=threshold)[0].passed


def test_intervals_of_a_line_are_of_the_rows_drawn_together() -> None:
    base = [float(50 + n % 50) for n in range(80)]
    [line] = gate({"contest_f1": sum(base) / 80}, {"contest_f1": 0.95 * sum(base) / 80})
    results = add_intervals(line, base, [0.95 * value for value in base])
    assert results.base_interval is not None
    assert results.tuned_interval is not None
    assert results.base_interval.low < line.base < results.base_interval.high
    assert results.tuned_interval == pytest.approx([0.95 * limit for limit in results.base_interval])
    assert results.retained_interval is None, "both figures of a row go together: what was kept does not vary"
    [share] = gate({"accuracy": 75.0}, {"accuracy": 50.0})
    values = add_intervals(share, [100.0, 100.0, 100.0, 0.0], [100.0, 100.0, 0.0, 0.0], is_accuracy=True)
    assert values.base_interval == tuple(100 * limit for limit in wilson(3, 4))
    assert values.retained_interval is not None
    assert values.retained_interval.low < 2 / 3 < values.retained_interval.high
    [nothing] = gate({"contest_em": 0.0}, {"contest_em": 50.0})
    assert add_intervals(nothing, [0.0, 0.0], [0.0, 100.0]).retained_interval is None


def test_fewer_bits_are_more_retained_and_their_interval_weighs_the_bytes() -> None:
    [line] = gate({"bits_per_byte": 1.8}, {"bits_per_byte": 2.0}, gating=("bits_per_byte",))
    assert (line.retained, line.passed, line.is_gated) == (0.9, True, True)
    [lost] = gate({"bits_per_byte": 1.8}, {"bits_per_byte": 2.01})
    assert not lost.passed
    weights = [10.0, 90.0] * 40
    base, tuned = [1.0, 3.0] * 40, [1.0, 3.3] * 40
    results = add_intervals(line, base, tuned, weights=weights)
    assert results.base_interval is not None
    assert results.base_interval.low < weighted_mean(base, weights) < results.base_interval.high
    assert results.retained_interval is not None
    assert results.retained_interval.low < 280 / 307 < results.retained_interval.high < 1


def test_an_ability_that_does_not_gate_is_only_reported() -> None:
    lines = gate(LLAMA, dict.fromkeys(LLAMA, 1.0), ability="first", is_gated=False)
    assert {(line.task, line.is_gated, line.passed) for line in lines} == {("first", False, False)}
    assert not gate_passed(lines), "a gate without metrics does not pass"
