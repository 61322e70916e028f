"""The rules by which a tuning's settings follow from its rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.model.methods.lora import LEAST_RANK, lora_rank, lora_rate
from lotune.train.auto_settings import (
    EPOCHS,
    FEWEST_STEPS,
    MOST_EPOCHS,
    MOST_STEPS,
    Choice,
    RowCounts,
    planned_epochs,
    step_rows,
    tuning_choices,
)
from lotune.train.schedule import resolve_warmup_steps, tuning_steps
from lotune.train.settings import TuneSettings

RATE = Choice(0.0062331, "LoRA")
COUNTS = st.builds(lambda rows, length: RowCounts(rows, rows * length), st.integers(1, 200_000), st.integers(2, 3_000))


@given(COUNTS)
def test_a_step_has_more_rows_where_there_are_more_and_shorter_ones(counts: RowCounts) -> None:
    rows = step_rows(counts).value
    assert rows in (8, 16, 32)
    assert rows <= step_rows(RowCounts(2 * counts.rows, 2 * counts.tokens)).value
    assert rows >= step_rows(RowCounts(counts.rows, 2 * counts.tokens)).value


@given(COUNTS)
def test_the_planned_steps_are_hundreds_and_not_thousands(counts: RowCounts) -> None:
    chosen = tuning_choices(TuneSettings(), counts, RATE)
    step, epochs = min(chosen["micro_batch_rows"].value, counts.rows), chosen["epochs"].value
    steps = tuning_steps(counts.rows, step, epochs, None)
    assert steps <= MOST_STEPS + 1
    assert epochs <= MOST_EPOCHS
    assert steps >= FEWEST_STEPS - 1 or epochs == MOST_EPOCHS
    assert epochs == EPOCHS or steps <= FEWEST_STEPS + 1 or steps >= MOST_STEPS - 1
    warmup = resolve_warmup_steps(steps, None, chosen["warmup_ratio"].value)
    assert 0 <= warmup <= steps / 2
    assert warmup >= min(9, steps // 2 - 1)


def test_what_the_settings_give_stays() -> None:
    counts = RowCounts(1_000, 40_000)
    given = TuneSettings(epochs=3, learning_rate=1e-4, warmup_ratio=0.0, micro_batch_rows=4)
    assert tuning_choices(given, counts, RATE) == {}
    assert tuning_choices(TuneSettings(), counts, RATE)["learning_rate"] == Choice(0.0062, "LoRA")
    assert tuning_choices(TuneSettings(optimizer="muon"), counts, RATE)["learning_rate"].why == "Muon"
    assert "epochs" not in tuning_choices(TuneSettings(steps=50), counts, RATE)
    assert planned_epochs(RowCounts(1_000, 40_000), 10) == Choice(8.0, "800 steps of 10 rows")


def test_replay_rows_take_no_steps_from_the_task() -> None:
    task = planned_epochs(RowCounts(200, 8_000), 8).value
    with_replay = planned_epochs(RowCounts(400, 16_000, replayed=200), 8).value
    assert task == with_replay == 12.0
    assert planned_epochs(RowCounts(400, 16_000), 8).value == 8.0


@given(st.integers(64, 8_192), st.sampled_from(["llama", "qwen2", "gpt2"]), st.floats(1, 128))
def test_the_rate_falls_with_width_and_alpha(width: int, architecture: str, alpha: float) -> None:
    rate = lora_rate(width, architecture, alpha)
    assert lora_rate(2 * width, architecture, alpha) < rate
    assert lora_rate(width, architecture, 2 * alpha) == pytest.approx(rate / 2)
    assert lora_rate(2_000, architecture, 32) == pytest.approx(5e-4)


@given(st.integers(1, 10**6), st.integers(1, 10**9), st.integers(10**5, 10**11))
def test_the_rank_holds_the_tokens_or_stops_at_a_bound(each: int, tokens: int, base: int) -> None:
    rank = lora_rank(each, tokens, base)
    assert rank in (8, 16, 32, 64)
    if rank > LEAST_RANK:
        assert rank * each < tokens, "half of it was too small"
        assert rank * each <= base // 100
    if rank < 64:
        assert 2 * rank * each >= tokens or 2 * rank * each > base // 100
