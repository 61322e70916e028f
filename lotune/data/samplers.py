"""The order of the rows: which of them each step of tuning and of pre-training draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from lotune.data.collate import Batch, Collator, pack_rows
from lotune.data.rank_split import SINGLE_RANK, RankSplit

if TYPE_CHECKING:
    from lotune.data.token_files import TokenFile


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order of the rows in one epoch, the same on every machine.

    >>> epoch_order(4, seed=1, epoch=0) == epoch_order(4, seed=1, epoch=0)
    True
    """
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def tuning_batches(
    rows: TokenFile,
    layout: Collator,
    *,
    step_rows: int,
    steps: int,
    seed: int,
    first_step: int = 1,
    share: RankSplit = SINGLE_RANK,
) -> Iterator[list[Batch]]:
    """The micro-batches of each step from `first_step` to `steps`, or of one process's share of its rows.

    Epochs follow one another without a remainder: every row is drawn once before any is drawn again.
    """
    drawn, lengths = _rows_by_step(len(rows), step_rows, seed, first_step), rows.lengths()
    for places in islice(drawn, steps + 1 - first_step):
        yield layout.batches(rows[place] for place in share.of(places, lengths[places].tolist()))


def rows_of_step(rows: int, step_rows: int, seed: int, step: int) -> list[int]:
    """The places of the rows that `tuning_batches` draws for a step (from 1).

    >>> sorted(rows_of_step(4, 2, 7, 1) + rows_of_step(4, 2, 7, 2))
    [0, 1, 2, 3]
    """
    return next(_rows_by_step(rows, step_rows, seed, step))


SamplingOrder = Literal["epochs", "with_replacement"]
"""How pre-training comes by its rows: every one once an epoch, or each step's by chance."""


def pretraining_batches(
    rows: TokenFile,
    *,
    batch_tokens: int,
    steps: int,
    seed: int,
    sampling: SamplingOrder = "epochs",
    first_step: int = 1,
    share: RankSplit = SINGLE_RANK,
    pad_token_id: int | None = None,
    micro_batch_tokens: int | None = None,
) -> Iterator[list[Batch]]:
    """For each step from `first_step` to `steps`, one line of packed rows, as many as `batch_tokens` has room for.

    In padded lines where `pad_token_id` is given, in several where `micro_batch_tokens` is less. Of a process's share
    of them where it is not alone: nothing where there are fewer rows than processes.
    """
    micro_batch_tokens = min(micro_batch_tokens or batch_tokens, batch_tokens)
    lengths = rows.lengths()
    drawn = islice(
        _group_by_token_budget(_row_order(len(rows), seed, sampling), lengths, batch_tokens), first_step - 1, steps
    )
    for places in drawn:
        own = share.of(places, lengths[places].tolist())
        if pad_token_id is None:
            yield [
                pack_rows([rows[place] for place in line])
                for line in _group_by_token_budget(iter(own), lengths, micro_batch_tokens)
            ]
        else:
            layout = Collator(len(places), micro_batch_tokens, pad_token_id, packed=False)
            yield layout.batches(rows[place] for place in own)


def steps_for_epochs(
    rows: TokenFile, *, batch_tokens: int, seed: int, sampling: SamplingOrder = "epochs", epochs: float = 1.0
) -> int:
    """The steps in which `pretraining_batches` goes through as many rows as there are, `epochs` times; one at least."""
    wanted, drawn = max(1, round(epochs * len(rows))), _row_order(len(rows), seed, sampling)
    return sum(1 for _ in _group_by_token_budget(islice(drawn, wanted), rows.lengths(), batch_tokens))


def pretraining_rows_of_step(
    rows: TokenFile, *, batch_tokens: int, seed: int, step: int, sampling: SamplingOrder = "epochs"
) -> list[int]:
    """The places of the rows that `pretraining_batches` draws for a step (from 1)."""
    drawn = _group_by_token_budget(_row_order(len(rows), seed, sampling), rows.lengths(), batch_tokens)
    return next(islice(drawn, step - 1, None))


def _row_order(rows: int, seed: int, sampling: SamplingOrder) -> Iterator[int]:
    """Rows without end: all of them in one order after the other, or each by chance from all."""
    if sampling == "epochs":
        yield from _shuffled_epochs(rows, seed)
    chance = random.Random(seed)
    while True:
        yield int(chance.random() * rows)


def _group_by_token_budget(drawn: Iterator[int], lengths: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Rows in the order in which they are drawn, at least one at a time, together `batch_tokens` tokens at most."""
    group: list[int] = []
    room = batch_tokens
    for place in drawn:
        needed = int(lengths[place]) - 1
        if group and needed > room:
            yield group
            group, room = [], batch_tokens
        group.append(place)
        room -= needed
    if group:
        yield group


def _rows_by_step(rows: int, step_rows: int, seed: int, first_step: int) -> Iterator[list[int]]:
    """The places of the rows of each step from `first_step` on, without end."""
    step_rows = min(step_rows, rows)
    drawn = islice(_shuffled_epochs(rows, seed), (first_step - 1) * step_rows, None)
    while True:
        yield list(islice(drawn, step_rows))


def _shuffled_epochs(rows: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from epoch_order(rows, seed, epoch)
        epoch += 1
