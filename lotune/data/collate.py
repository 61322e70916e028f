"""Collate rows into micro-batches of padded or packed lines.

Shapes: B lines of a batch, T tokens of its longest line. A padded line holds one row; a packed batch has a single line
(B = 1) with all its rows. `targets` are shifted here and nowhere else: position t holds the token that follows
position t, or IGNORE_INDEX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from lotune.data.tokenized import EncodedRow

if TYPE_CHECKING:
    import torch


# The value that torch's cross_entropy ignores by default, and that Hugging Face's models expect.
IGNORE_INDEX = -100
"""Target of a position that is not in the loss."""
# Negative, so that `sequence_ids >= 0` selects the tokens that belong to one row.
PADDING_SEQUENCE_ID = -1
"""Sequence id of padding."""
SHARED_PREFIX_ID = -2
"""Sequence id of the prefix that all rows of a packed line share."""
MIN_SHARED_PREFIX = 8
"""Length in tokens from which a prefix that all rows of a line share is stored once."""


@dataclass(frozen=True)
class Batch:
    """Tokens, targets, position ids and sequence ids of some rows, each (B, T) int64.

    `sequence_ids` tell rows of a packed line apart. The first `shared_prefix` tokens of a packed line belong to all its
    rows and are computed once. `replay_rows`, (rows,) bool, marks the rows that replay the retained task; it is None if
    no row does.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    sequence_ids: torch.Tensor
    shared_prefix: int = 0
    replay_rows: torch.Tensor | None = None

    @property
    def replay_mask(self) -> torch.Tensor:
        """Positions of the rows that replay the retained task, (B, T) bool; a shared prefix belongs to no row."""
        own = self.sequence_ids >= 0  # (B, T)
        if self.replay_rows is None:
            return own.new_zeros(own.shape)
        if len(own) > 1:  # one row per line
            return own & self.replay_rows[:, None]  # (B, 1) broadcast to (B, T)
        # Negative ids would index from the end; `own` removes the positions that the clamp moves to row 0.
        return own & self.replay_rows[self.sequence_ids.clamp(min=0)]  # (1, T)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all rows, without padding; a shared prefix counts once per row."""
        in_prefixes = self.shared_prefix * (int(self.sequence_ids[0, -1]) + 1) if self.shared_prefix else 0
        return int((self.sequence_ids >= 0).sum()) + in_prefixes

    @property
    def num_scored_tokens(self) -> int:
        """Number of positions in the loss."""
        return int((self.targets != IGNORE_INDEX).sum())

    @property
    def row_lengths(self) -> torch.Tensor | None:
        """Lengths of a packed line in tokens, (1 + rows,) int64: the shared prefix, then the rest of each row.

        None for a batch with one row per line.
        """
        if len(self.sequence_ids) > 1 or int(self.sequence_ids[0, -1]) <= 0:
            return None
        counts: torch.Tensor = self.sequence_ids[0, self.shared_prefix :].unique_consecutive(return_counts=True)[1]
        return counts.new_tensor([self.shared_prefix, *counts.tolist()])

    def rows(self) -> Iterator[list[int]]:
        """Yield the input ids of each row, including a shared prefix."""
        for line, ids in zip(self.input_ids, self.sequence_ids, strict=True):
            for number in range(int(ids.max()) + 1):
                yield [
                    *line[: self.shared_prefix].tolist(),
                    *line[self.shared_prefix :][ids[self.shared_prefix :] == number].tolist(),
                ]


def without_targets(batch: Batch, token_id: int | None) -> Batch:
    """Return a batch in which no position has this token as its target; None leaves the batch as it is."""
    if token_id is None:
        return batch
    return replace(batch, targets=batch.targets.masked_fill(batch.targets == token_id, IGNORE_INDEX))


def replay_part(batch: Batch, prefix_ids: Sequence[int] = ()) -> Batch | None:
    """Return the replay rows of a batch as a batch of their own, None if it has none.

    `prefix_ids`, such as virtual tokens, begin each row of the batch, and are left out.
    """
    import torch

    if batch.replay_rows is None or not batch.replay_rows.any():
        return None
    kept = ~torch.isin(batch.input_ids, batch.input_ids.new_tensor(prefix_ids))  # (B, T)
    if len(batch.input_ids) > 1:  # a row per line
        return _part_of_padded(batch, batch.replay_rows, kept)
    kept = (kept & (batch.replay_mask | (batch.sequence_ids == SHARED_PREFIX_ID)))[0]  # (T,)
    ids = batch.sequence_ids[0, kept]  # (T,)
    numbers = batch.replay_rows.cumsum(0) - 1  # of each row among the replay rows, (rows,)
    ids = torch.where(ids >= 0, numbers[ids.clamp(min=0)], ids)
    shared, positions = int((ids == SHARED_PREFIX_ID).sum()), batch.positions[:, kept] - len(prefix_ids)
    marks = batch.replay_rows[batch.replay_rows]
    return Batch(batch.input_ids[:, kept], batch.targets[:, kept], positions, ids[None], shared, marks)


def single_rows(batch: Batch) -> Iterator[Batch]:
    """Yield each row of a batch as a batch of its own, (1, T), up to the last scored position, of which it has one."""
    names = ("input_ids", "targets", "positions")
    for line, ids in enumerate(batch.sequence_ids):  # (T,)
        for number in range(int(ids.max()) + 1):
            own = ((ids == number) | (ids == SHARED_PREFIX_ID)).nonzero()[:, 0]
            last = int((batch.targets[line, own] != IGNORE_INDEX).nonzero().max())
            input_ids, targets, positions = (getattr(batch, name)[line, own[: last + 1]][None] for name in names)
            yield Batch(input_ids, targets, positions, input_ids.new_zeros(input_ids.shape))


def _part_of_padded(batch: Batch, lines: torch.Tensor, kept: torch.Tensor) -> Batch:
    """Return lines (B,) bool of a padded batch; `kept` (B, T) is False at the tokens of a prefix of one length."""
    first = int((~kept[0]).sum())
    last = 1 + int((batch.targets[lines] != IGNORE_INDEX).any(0).nonzero().max())
    names = ("input_ids", "targets", "positions", "sequence_ids")
    ids, targets, positions, sequence_ids = (getattr(batch, name)[lines, first:last] for name in names)
    return Batch(ids, targets, positions - first, sequence_ids, replay_rows=lines[lines])


def pad_rows(rows: Sequence[EncodedRow], pad_token_id: int) -> Batch:
    """Return a batch with one row per line, padded on the right to the longest row: (B, T).

    No attention mask is needed: with causal attention, a token does not depend on the padding to its right.
    """
    import torch

    length = max(len(row.token_ids) for row in rows) - 1
    tokens = np.full((len(rows), length + 1), pad_token_id, dtype=np.int64)  # (B, T + 1)
    scored = np.zeros((len(rows), length + 1), dtype=bool)  # (B, T + 1)
    sequence_ids = np.full((len(rows), length), PADDING_SEQUENCE_ID, dtype=np.int64)  # (B, T)
    for line, row in enumerate(rows):
        tokens[line, : len(row.token_ids)] = row.token_ids
        for first, last in row.spans:
            scored[line, first:last] = True
        sequence_ids[line, : len(row.token_ids)] = 0
    targets = np.where(scored, tokens, IGNORE_INDEX)[:, 1:]  # (B, T)
    positions = np.broadcast_to(np.arange(length), (len(rows), length))  # (B, T)
    # from_numpy shares memory, and would warn of the read-only view that broadcast_to returns.
    arrays = (tokens[:, :-1], targets, positions, sequence_ids)
    input_ids, labels, position_ids, ids = (torch.from_numpy(array.copy()) for array in arrays)
    return Batch(input_ids, labels, position_ids, ids, replay_rows=_replay_rows(rows))


def pack_rows(rows: Sequence[EncodedRow]) -> Batch:
    """Return a batch with all rows one after the other in one line (1, T), without padding.

    Positions restart at 0 with each row. A prefix that all rows share and that is not in the loss, such as the opening
    of a template, is stored once, at the start of the line. Nothing follows the last token of a row, so it is a target
    only.
    """
    import torch

    shared = _shared_prefix_length(rows)
    lengths = [shared, *(len(row.token_ids) - 1 - shared for row in rows)]
    parts = [rows[0].token_ids[:shared], *(row.token_ids[shared:-1] for row in rows)]
    tokens = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=sum(lengths))  # (T,)
    targets = np.full(len(tokens), IGNORE_INDEX, dtype=np.int64)  # (T,)
    # Token i of a row is at start + i of the line, as `start` counts the earlier rows without the prefix they share.
    start = 0
    for row, length in zip(rows, lengths[1:], strict=True):
        for first, last in row.spans:
            first = max(first, 1)  # nothing predicts the first token of a row
            targets[start + first - 1 : start + last - 1] = row.token_ids[first:last]
        start += length
    positions = np.concatenate([np.arange(shared), *(shared + np.arange(length) for length in lengths[1:])])  # (T,)
    sequence_ids = np.repeat([SHARED_PREFIX_ID, *range(len(rows))], lengths)  # (T,)
    arrays = (tokens, targets, positions, sequence_ids)
    input_ids, labels, position_ids, ids = (torch.from_numpy(array[None]) for array in arrays)  # (1, T) each
    return Batch(input_ids, labels, position_ids, ids, shared, _replay_rows(rows))


def _replay_rows(rows: Sequence[EncodedRow]) -> torch.Tensor | None:
    import torch

    return torch.tensor([row.is_replay for row in rows]) if any(row.is_replay for row in rows) else None


def _shared_prefix_length(rows: Sequence[EncodedRow]) -> int:
    """Return the number of tokens that all rows begin with and that are not in the loss; 0 if too few to matter."""
    if len(rows) < 2:
        return 0
    # The last token before a completion predicts its first one, so it has a target and stays with its row.
    limit = max(0, min(row.spans[0][0] for row in rows) - 1)
    # What the first and the last row in lexicographic order have in common, all rows between them have, too.
    first, last = (row.token_ids[:limit] for row in (min(rows, key=_token_ids), max(rows, key=_token_ids)))
    pairs = enumerate(zip(first, last, strict=True))
    length = next((index for index, (left, right) in pairs if left != right), limit)
    return length if length >= MIN_SHARED_PREFIX else 0


def _shared_tokens(rows: Sequence[EncodedRow]) -> int:
    """Return the number of tokens that need not be computed if the rows share their prefix."""
    return _shared_prefix_length(rows) * (len(rows) - 1)


def _token_ids(row: EncodedRow) -> tuple[int, ...]:
    return row.token_ids


def with_prefix(row: EncodedRow, prefix_ids: tuple[int, ...]) -> EncodedRow:
    """Return a row with tokens before it that are not in the loss.

    >>> with_prefix(EncodedRow("1", (7, 8, 9), 2, ((0, 1),)), (5, 6))
    EncodedRow(id='1', token_ids=(5, 6, 7, 8, 9), completion_start=4, earlier_completions=((2, 3),), is_replay=False)
    """
    shift = len(prefix_ids)
    if not shift:
        return row
    earlier = tuple((first + shift, last + shift) for first, last in row.earlier_completions)
    return EncodedRow(row.id, (*prefix_ids, *row.token_ids), row.completion_start + shift, earlier, row.is_replay)


PASS_TOKENS = 768
"""Number of tokens that cost about as much to compute as another pass does: no padded micro-batch has more padding."""


@dataclass(frozen=True)
class Collator:
    """Divides rows into micro-batches, packed or padded, of at most `batch_rows` rows and `batch_tokens` tokens.

    A row longer than `batch_tokens` gets a micro-batch of its own.
    """

    batch_rows: int
    batch_tokens: int
    pad_token_id: int
    packed: bool
    prefix_ids: tuple[int, ...] = ()
    """Token ids to put before each row, such as the virtual tokens of prompt tuning."""

    def batches(self, rows: Iterable[EncodedRow]) -> list[Batch]:
        """Return the micro-batches of rows, grouped by similar length."""
        groups = chain.from_iterable(
            map(self._groups, self._parts([with_prefix(row, self.prefix_ids) for row in rows]))
        )
        return [pack_rows(group) if self.packed else pad_rows(group, self.pad_token_id) for group in groups]

    def _parts(self, rows: list[EncodedRow]) -> list[list[EncodedRow]]:
        """Return the rows together, or the task's and the replay rows apart if that shares enough more tokens."""
        # The task's rows often share a long instruction, which replay rows do not begin with.
        apart = [[row for row in rows if row.is_replay == is_replay] for is_replay in (False, True)]
        if not self.packed or not all(apart):
            return [rows]
        saved = sum(map(_shared_tokens, apart)) - _shared_tokens(rows)
        return apart if saved >= PASS_TOKENS else [rows]

    def _groups(self, rows: Iterable[EncodedRow]) -> Iterator[list[EncodedRow]]:
        group: list[EncodedRow] = []
        # Neighbours in length pad least, and packed rows of similar length share one attention call.
        for row in sorted(rows, key=lambda row: len(row.token_ids)):
            if group and (len(group) == self.batch_rows or not self._fits(group, row)):
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _fits(self, group: Sequence[EncodedRow], longest: EncodedRow) -> bool:
        lengths = [len(row.token_ids) - 1 for row in (*group, longest)]
        if self.packed:
            return sum(lengths) <= self.batch_tokens
        padding = len(lengths) * lengths[-1] - sum(lengths)
        return len(lengths) * lengths[-1] <= self.batch_tokens and padding <= PASS_TOKENS
