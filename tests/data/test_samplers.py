"""The order of the rows: what each step of tuning and of pre-training draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.collate import Collator
from lotune.data.samplers import (
    ReplayPool,
    epoch_order,
    pretraining_batches,
    pretraining_rows_of_step,
    rows_of_step,
    steps_for_epochs,
    tuning_batches,
)
from lotune.data.token_files import TokenFile, write_token_file
from lotune.data.tokenized import EncodedRow
from tests.data.test_collate import EOS, layouts, rows_of


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 10))
def test_an_epoch_draws_each_row_once(rows: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(rows, seed, epoch)) == list(range(rows))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    """Ten rows; row i begins with token 10 + i."""
    rows = [EncodedRow(str(i), (10 + i, *[5] * (i % 4), 7, EOS), 1 + i % 4) for i in range(10)]
    return write_token_file(tmp_path_factory.mktemp("tokens") / "train", rows, 300)


@given(st.integers(1, 14), layouts, st.integers(1, 9), st.integers(0, 100))
def test_tuning_draws_every_row_before_any_again(
    file: TokenFile, step_rows: int, layout: Collator, steps: int, seed: int
) -> None:
    results = list(tuning_batches(file, layout, step_rows=step_rows, steps=steps, seed=seed))
    assert len(results) == steps
    drawn = [[row[0] - 10 for batch in step for row in rows_of(batch)] for step in results]
    assert all(len(step) == min(step_rows, 10) for step in drawn)
    order = [row for epoch in range(20) for row in epoch_order(10, seed, epoch)]
    for number, step in enumerate(drawn):
        size = len(step)
        assert sorted(step) == sorted(order[number * size : (number + 1) * size])
        assert sorted(step) == sorted(rows_of_step(len(file), step_rows, seed, number + 1))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 50))
def test_a_pretraining_step_has_as_many_rows_as_fit(file: TokenFile, budget: int, steps: int, seed: int) -> None:
    results = [batch for [batch] in pretraining_batches(file, batch_tokens=budget, steps=steps, seed=seed)]
    assert len(results) == steps
    sizes = [batch.input_ids.shape[1] for batch in results]
    starts = [[batch.input_ids[0, batch.positions[0] == 0]] for batch in results]
    drawn = [int(token) - 10 for [tokens] in starts for token in tokens]
    assert drawn == [row for epoch in range(50) for row in epoch_order(10, seed, epoch)][: len(drawn)]
    for size, [tokens], [after] in zip(sizes, starts, [*starts[1:], [None]], strict=True):
        assert size <= budget or len(tokens) == 1
        if after is not None:
            following = len(file[int(after[0]) - 10].token_ids) - 1
            assert size + following > budget
    later = pretraining_batches(file, batch_tokens=budget, steps=steps, seed=seed, first_step=steps)
    assert torch.equal(next(later)[0].input_ids, results[-1].input_ids)


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 50))
def test_passes_of_a_pretraining_step_hold_its_rows(file: TokenFile, budget: int, most: int, seed: int) -> None:
    complete = [batch for [batch] in pretraining_batches(file, batch_tokens=budget, steps=4, seed=seed)]
    parts = pretraining_batches(file, batch_tokens=budget, steps=4, seed=seed, micro_batch_tokens=most)
    for item, lines in zip(complete, parts, strict=True):
        assert torch.equal(item.input_ids, torch.cat([line.input_ids for line in lines], 1))
        assert torch.equal(item.targets, torch.cat([line.targets for line in lines], 1))
        assert all(line.input_ids.shape[1] <= most or int((line.positions == 0).sum()) == 1 for line in lines)


@given(st.integers(1, 40), st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0]))
def test_an_epoch_reads_every_row(file: TokenFile, budget: int, seed: int, epochs: float) -> None:
    steps = steps_for_epochs(file, batch_tokens=budget, seed=seed, epochs=epochs)
    drawn = [pretraining_rows_of_step(file, batch_tokens=budget, seed=seed, step=step) for step in range(1, steps + 1)]
    read = [row for rows in drawn for row in rows]
    assert len(read) - len(drawn[-1]) < epochs * len(file) <= len(read)
    assert len(set(read)) == min(1.0, epochs) * len(file) or len(read) > epochs * len(file)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_each_epoch_has_all_rows_of_the_task_and_other_replay_rows(task: int, pool: int, most: int, seed: int) -> None:
    per_epoch = min(pool, most)
    replay = ReplayPool(pool, per_epoch)
    deals = pool // per_epoch
    epochs = [epoch_order(task + pool, seed, epoch, replay) for epoch in range(2 * deals)]
    for order in epochs:
        assert sorted(row for row in order if row < task) == list(range(task))
        assert len(order) == len(set(order)) == task + per_epoch
    for shuffle in (epochs[:deals], epochs[deals:]):
        replayed = [row for order in shuffle for row in order if row >= task]
        assert len(replayed) == len(set(replayed)) == deals * per_epoch, "no replay row comes twice in a shuffle"


@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 20), st.integers(0, 99))
def test_every_part_of_an_epoch_has_its_share_of_replay_rows(task: int, pool: int, length: int, seed: int) -> None:
    order = epoch_order(task + pool, seed, 3, ReplayPool(pool, pool))
    assert sorted(order) == list(range(task + pool))
    for first in range(len(order) - length + 1):
        replayed = sum(row >= task for row in order[first : first + length])
        assert abs(replayed - length * pool / len(order)) < 1


def test_a_step_with_replay_is_drawn_again_by_its_number() -> None:
    pool = ReplayPool(7, 3)
    steps = [rows_of_step(12, 4, 1, step, pool) for step in range(1, 9)]
    assert [row for step in steps[:4] for row in step] == [
        row for epoch in (0, 1) for row in epoch_order(12, 1, epoch, pool)
    ], "two epochs of eight rows"
    assert steps[5] == rows_of_step(12, 4, 1, 6, pool)
