"""The gate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.evaluate.retention import gate, gate_passed

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
    assert (line.kept, line.passed) == (None, False)
    assert (other.kept, other.passed) == (1.0, True)
    assert not gate_passed([line, other])


def test_official_metrics_are_reported_and_do_not_gate() -> None:
    base = LLAMA | {"squad_f1": 60.0, "squad_em": 50.0}
    lines = gate(base, LLAMA | {"squad_f1": 10.0, "squad_em": 10.0})
    assert [(line.metric, line.gates, line.passed) for line in lines] == [
        ("contest_f1", True, True),
        ("contest_em", True, True),
        ("squad_f1", False, False),
        ("squad_em", False, False),
    ]
    assert gate_passed(lines)


def test_metrics_of_another_task_all_gate() -> None:
    assert [line.gates for line in gate({"rouge": 30.0}, {"rouge": 30.0}, task="encyclopaedia")] == [True]


def test_other_metrics_after_tuning_are_refused() -> None:
    with pytest.raises(DataError):
        gate(LLAMA, {"contest_f1": 50.0})


@given(st.floats(5, 100), st.floats(0, 100), st.floats(0, 1))
def test_more_is_never_worse(base: float, tuned: float, threshold: float) -> None:
    (line,) = gate({"m": base}, {"m": tuned}, threshold)
    (more,) = gate({"m": base}, {"m": tuned + 1}, threshold)
    assert more.passed >= line.passed
    assert gate({"m": base}, {"m": base}, threshold)[0].passed
