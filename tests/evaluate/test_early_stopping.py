"""When a tuning ends early, and what its last line says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.evaluate.early_stopping import ValidationPoint, learning_outcome, reason_to_stop, still_rises


def points(*rights: tuple[int, int, float], rows: int = 50) -> list[ValidationPoint]:
    """Checkpoints by step, number of right rows and loss; the first rows are the right ones."""
    return [ValidationPoint(step, [1.0] * right + [0.0] * (rows - right), loss) for step, right, loss in rights]


@pytest.mark.parametrize(
    ("history", "rises"),
    [
        ([(20, 10, 1.0)], None),
        ([(20, 10, 1.0), (30, 50, 0.1)], None),  # not yet twice the steps
        ([(20, 10, 1.0), (40, 20, 1.0)], True),
        ([(20, 10, 1.0), (40, 12, 1.0)], False),  # two rows may be chance
        ([(20, 0, 1.0), (40, 0, 0.9)], True),  # nothing is right yet, but the loss falls
        ([(20, 0, 1.0), (40, 0, 0.97)], False),
        ([(20, 10, 1.0), (40, 30, 0.5), (60, 31, 0.5)], True),  # compared with step 20
        ([(20, 30, 1.0), (40, 30, 0.5), (80, 30, 0.6)], False),
    ],
)
def test_a_point_is_compared_with_the_one_at_half_its_steps(
    history: list[tuple[int, int, float]], rises: bool | None
) -> None:
    found = points(*history)
    assert still_rises(found) is rises
    assert (reason_to_stop(found) is not None) == (rises is False)


def test_a_single_dip_ends_no_tuning() -> None:
    rising_until_then = points((20, 10, 1.0), (30, 40, 0.5), (40, 12, 1.0))
    assert still_rises(rising_until_then) is False
    assert reason_to_stop(rising_until_then) is None
    assert reason_to_stop([*rising_until_then, *points((60, 38, 0.5), (120, 39, 0.5))]) is not None


def test_rows_that_are_all_right_twice_end_a_tuning_at_once() -> None:
    assert "two checkpoints in a row" in str(reason_to_stop(points((20, 50, 0.5), (21, 50, 0.1))))
    assert reason_to_stop(points((20, 49, 0.5), (21, 50, 0.1))) is None
    assert reason_to_stop(points((20, 0, 0.5), (21, 0, 0.1), rows=0)) is None


def test_scores_without_an_upper_bound_are_compared_by_a_paired_test() -> None:
    bits = [ValidationPoint(step, [-level - row / 100 for row in range(40)], 1.0) for step, level in ((10, 2), (20, 1))]
    assert still_rises(bits)
    assert still_rises([bits[0], ValidationPoint(20, bits[0].values, 1.0)]) is False


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 3)), min_size=1, max_size=6))
def test_the_last_line_agrees_with_the_decision(figures: list[tuple[int, float]]) -> None:
    found = points(*((2**place, right, loss) for place, (right, loss) in enumerate(figures)))
    line = learning_outcome(found)
    assert ("still rising" in line) == bool(still_rises(found))
    if "no row was right" in line:
        assert not any(right for right, _ in figures)
