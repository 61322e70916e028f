"""Samplers: the rows of each step of tuning and pre-training.

The rows of step n follow from the seed and n alone, not from the number of processes. So a training resumes at any step
without a stored position, with more or fewer processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lotune.data.collate import Batch, Collator, pack_rows
from lotune.data.rank_split import SINGLE_RANK, RankSplit

if TYPE_CHECKING:
    from lotune.data.token_files import TokenFile


class ReplayPool(NamedTuple):
    """The replay rows of a token file, its last `rows` rows.

    Each epoch has `per_epoch` of them, at most `rows`, and none twice. The pool is dealt out in random order; once
    fewer than `per_epoch` are left, it is shuffled again.
    """

    rows: int = 0
    per_epoch: int = 0

    def epoch_rows(self, rows: int) -> int:
        """Return the number of rows of an epoch, of a token file of `rows` rows."""
        return rows - self.rows + self.per_epoch

    def drawn(self, seed: int, epoch: int) -> list[int]:
        """Return the indices of the replay rows of an epoch, counted from 0 within the pool, in ascending order.

        >>> pool = ReplayPool(rows=6, per_epoch=2)
        >>> sorted(pool.drawn(1, 0) + pool.drawn(1, 1) + pool.drawn(1, 2))
        [0, 1, 2, 3, 4, 5]
        """
        if not self.per_epoch:
            return []
        shuffle, deal = divmod(epoch, self.rows // self.per_epoch)
        order = epoch_order(self.rows, seed, -1 - shuffle)
        return sorted(order[deal * self.per_epoch : (deal + 1) * self.per_epoch])


NO_REPLAY = ReplayPool()


def epoch_order(rows: int, seed: int, epoch: int, pool: ReplayPool = NO_REPLAY) -> list[int]:
    """Return the row indices of one epoch in random order, with the replay rows of the epoch if `pool` has any.

    Replay rows stand at even distances, so that each step has its share of them. The order is the same on every
    machine.

    >>> epoch_order(4, seed=1, epoch=0) == epoch_order(4, seed=1, epoch=0)
    True
    >>> [index >= 4 for index in epoch_order(6, seed=1, epoch=0, pool=ReplayPool(rows=2, per_epoch=2))]
    [False, False, True, False, False, True]
    """
    # torch's generators give other numbers on another device and, without promise, in another version.
    draw, task = random.Random(f"{seed}/{epoch}"), list(range(rows - pool.rows))
    replay = [rows - pool.rows + place for place in pool.drawn(seed, epoch)]
    draw.shuffle(task)
    draw.shuffle(replay)
    share, total, rest = len(replay), len(task) + len(replay), (iter(task), iter(replay))
    # Up to each place there are as many replay rows as their share of these rows, rounded down.
    return [next(rest[(place + 1) * share // total - place * share // total]) for place in range(total)]


def tuning_batches(
    rows: TokenFile,
    collator: Collator,
    *,
    step_rows: int,
    steps: int,
    seed: int,
    first_step: int = 1,
    rank_split: RankSplit = SINGLE_RANK,
    pool: ReplayPool = NO_REPLAY,
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step from `first_step` to `steps`, of the rows that `rank_split` selects.

    Epochs follow one another without a gap: a step may hold the last rows of one epoch and the first of the next.
    """
    by_step, lengths = _rows_by_step(len(rows), step_rows, seed, first_step, pool), rows.lengths()
    for indices in islice(by_step, steps + 1 - first_step):
        rank_rows = rank_split.of(indices, lengths[indices].tolist())
        yield collator.batches(rows[index] for index in rank_rows)


def rows_of_step(rows: int, step_rows: int, seed: int, step: int, pool: ReplayPool = NO_REPLAY) -> list[int]:
    """Return the indices of the rows that `tuning_batches` draws for a step (from 1).

    >>> sorted(rows_of_step(4, 2, 7, 1) + rows_of_step(4, 2, 7, 2))
    [0, 1, 2, 3]
    """
    return next(_rows_by_step(rows, step_rows, seed, step, pool))


SamplingOrder = Literal["epochs", "with_replacement"]
"""How pre-training draws its rows: each once per epoch, or at random with replacement."""


def pretraining_batches(
    rows: TokenFile,
    *,
    batch_tokens: int,
    steps: int,
    seed: int,
    sampling: SamplingOrder = "epochs",
    first_step: int = 1,
    rank_split: RankSplit = SINGLE_RANK,
    pad_token_id: int | None = None,
    micro_batch_tokens: int | None = None,
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step from `first_step` to `steps`, of the rows that `rank_split` selects.

    A step has as many rows as fit `batch_tokens`, in packed lines of at most `micro_batch_tokens` (default: one).
    With `pad_token_id` the rows are padded instead. A step with fewer rows than processes leaves some without a batch.
    """
    micro_batch_tokens = min(micro_batch_tokens or batch_tokens, batch_tokens)
    lengths = rows.lengths()
    # How many rows a step takes depends on their lengths, so the steps before `first_step` are drawn again and skipped.
    by_step = islice(
        _group_by_token_budget(_row_order(len(rows), seed, sampling), lengths, batch_tokens), first_step - 1, steps
    )
    for indices in by_step:
        rank_rows = rank_split.of(indices, lengths[indices].tolist())
        if pad_token_id is None:
            yield [
                pack_rows([rows[index] for index in line])
                for line in _group_by_token_budget(iter(rank_rows), lengths, micro_batch_tokens)
            ]
        else:
            collator = Collator(len(indices), micro_batch_tokens, pad_token_id, packed=False)
            yield collator.batches(rows[index] for index in rank_rows)


def steps_for_epochs(
    rows: TokenFile, *, batch_tokens: int, seed: int, sampling: SamplingOrder = "epochs", epochs: float = 1.0
) -> int:
    """Return the number of steps in which `pretraining_batches` draws `epochs` times the number of rows, at least 1."""
    num_rows, order = max(1, round(epochs * len(rows))), _row_order(len(rows), seed, sampling)
    return sum(1 for _ in _group_by_token_budget(islice(order, num_rows), rows.lengths(), batch_tokens))


def pretraining_rows_of_step(
    rows: TokenFile, *, batch_tokens: int, seed: int, step: int, sampling: SamplingOrder = "epochs"
) -> list[int]:
    """Return the indices of the rows that `pretraining_batches` draws for a step (from 1)."""
    by_step = _group_by_token_budget(_row_order(len(rows), seed, sampling), rows.lengths(), batch_tokens)
    return next(islice(by_step, step - 1, None))


def _row_order(rows: int, seed: int, sampling: SamplingOrder) -> Iterator[int]:
    """Yield row indices without end: epoch after epoch, or drawn with replacement."""
    if sampling == "epochs":
        yield from _shuffled_epochs(rows, seed)
    generator = random.Random(seed)
    while True:
        yield int(generator.random() * rows)


def _group_by_token_budget(order: Iterator[int], lengths: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Yield groups of row indices in their order, of at most `batch_tokens` tokens but at least one row each."""
    group: list[int] = []
    remaining = batch_tokens
    for index in order:
        needed = int(lengths[index]) - 1  # a row's last token is a target only
        if group and needed > remaining:
            yield group
            group, remaining = [], batch_tokens
        group.append(index)
        remaining -= needed
    if group:
        yield group


def _rows_by_step(rows: int, step_rows: int, seed: int, first_step: int, pool: ReplayPool) -> Iterator[list[int]]:
    """Yield the row indices of each step from `first_step` on, without end."""
    # More rows per step than there are would train on the same row twice in one step.
    step_rows = min(step_rows, pool.epoch_rows(rows))
    order = islice(_shuffled_epochs(rows, seed, pool), (first_step - 1) * step_rows, None)
    while True:
        yield list(islice(order, step_rows))


def _shuffled_epochs(rows: int, seed: int, pool: ReplayPool = NO_REPLAY) -> Iterator[int]:
    epoch = 0
    while True:
        yield from epoch_order(rows, seed, epoch, pool)
        epoch += 1
