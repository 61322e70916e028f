"""The course of a training as numbers: learning rates, checkpoints, steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.train.schedule import (
    checkpoint_steps,
    end_early,
    lr_factor,
    lr_factors,
    resolve_warmup_steps,
    tuning_steps,
)
from lotune.train.settings import TuneSettings


@pytest.mark.oracle
@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (10, 3), (200, 6), (7, 6), (2, 1)])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_course_is_that_of_transformers(steps: int, warmup: int, schedule: str) -> None:
    from transformers import get_scheduler

    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for step in range(1, steps + 1):
        optimizer.step()
        expected.step()
        assert lr_factor(step, steps, warmup, schedule) == pytest.approx(expected.get_last_lr()[0], abs=1e-12)


@given(
    st.integers(1, 500), st.floats(0, 0.99), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant", "wsd"])
)
def test_it_rises_once_and_falls_once(steps: int, share: float, final: float, schedule: str) -> None:
    warmup = resolve_warmup_steps(steps, None, share)
    course = [lr_factor(step, steps, warmup, schedule, final) for step in range(1, steps + 1)]
    assert all(0 <= item <= 1 + 1e-12 for item in course)
    assert course[:warmup] == sorted(course[:warmup])
    assert all(a >= b - 1e-12 for a, b in zip(course[warmup:], course[warmup + 1 :], strict=False))
    if warmup:
        assert course[warmup - 1] == 1
    if steps > 1 and schedule != "constant":
        assert course[-1] == pytest.approx(final)
    assert any(course), "a training in which nothing is learned"


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_checkpoints_are_evenly_spaced(steps: int, count: int) -> None:
    if count > steps:
        with pytest.raises(SettingsError, match=f"{count} checkpoints in {steps} steps"):
            checkpoint_steps(steps, count)
        return
    results = checkpoint_steps(steps, count)
    assert len(results) == len(set(results)) == count
    assert results == sorted(results)
    assert results[-1] == steps
    assert results[0] >= 1
    for i, step in enumerate(results, 1):
        assert abs(step - i * steps / count) <= 0.5
    gaps = [b - a for a, b in zip([0, *results], results, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_the_contest_has_five_checkpoints_of_ten_epochs() -> None:
    assert checkpoint_steps(10 * 7031, 5) == [2 * 7031, 4 * 7031, 6 * 7031, 8 * 7031, 10 * 7031]


@given(st.integers(1, 10_000), st.integers(1, 500), st.floats(0.001, 20))
def test_steps_of_an_epoch(rows: int, step_rows: int, epochs: float) -> None:
    steps = tuning_steps(rows, step_rows, epochs, None)
    assert steps >= 1
    assert abs(steps * min(step_rows, rows) - rows * epochs) <= max(0.5 * min(step_rows, rows) + 1e-6, step_rows)
    assert tuning_steps(rows, step_rows, epochs, 17) == 17


@given(st.integers(1, 1000), st.integers(0, 2000), st.floats(0, 0.999))
def test_a_warm_up_leaves_a_step(steps: int, given_steps: int, share: float) -> None:
    assert 0 <= resolve_warmup_steps(steps, given_steps, share) < steps
    assert 0 <= resolve_warmup_steps(steps, None, share) < steps


@given(
    st.integers(2, 400), st.floats(0, 1), st.floats(0.01, 0.9), st.floats(0, 1),
    st.sampled_from(["cosine", "linear", "constant", "wsd"]),
)  # fmt: skip
def test_an_early_end_keeps_the_past_and_falls_to_the_minimum(
    steps: int, place: float, ratio: float, final: float, schedule: str
) -> None:
    how = TuneSettings(lr_schedule=schedule, decay_ratio=ratio, min_lr_ratio=final, warmup_steps=3, warmup_ratio=0.0)  # type: ignore[arg-type]
    planned, decided_at = lr_factors(how, steps), 1 + round(place * (steps - 1))
    ended = end_early(planned, decided_at, how)
    assert ended[:decided_at] == planned[:decided_at], "steps that are done stay as they were"
    assert decided_at <= len(ended) <= steps
    if len(ended) > decided_at:
        assert ended[-1] == pytest.approx(final)
        fall = ended[decided_at - 1 :]
        assert fall in (sorted(fall), sorted(fall, reverse=True))
    if len(ended) < steps and decided_at > 1 / ratio:
        assert (len(ended) - decided_at) / len(ended) == pytest.approx(ratio, abs=1 / len(ended))


def test_wsd_falls_in_the_last_fifth_only() -> None:
    how = TuneSettings(lr_schedule="wsd", warmup_ratio=0.1)
    assert lr_factors(how, 100)[10:80] == [1.0] * 70
    assert lr_factors(how, 100)[79:] == pytest.approx([1 - step / 20 for step in range(21)])
    assert end_early(lr_factors(how, 100), 80, how) == pytest.approx(lr_factors(how, 100))
