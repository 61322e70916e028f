"""From rows to micro-batches: padded lines, packed lines.

(B, T): rows of a batch × tokens of its longest row. `targets` are shifted here and nowhere else: position t holds the
token that follows position t, or UNSCORED.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from lotune.data.tokenized import EncodedRow

if TYPE_CHECKING:
    import torch


IGNORE_INDEX = -100
"""Target of a position that is not scored."""
PADDING_SEQUENCE_ID = -1
"""Row id of padding."""
SHARED_PREFIX_ID = -2
"""Row id of tokens that all rows of a packed line begin with."""
MIN_SHARED_PREFIX = 8
"""Tokens that the rows of a line have to begin with alike before these are laid down once."""


@dataclass(frozen=True)
class Batch:
    """Tokens, targets, positions and row ids, all (B, T) int64; row ids tell rows packed into one line apart.

    A packed line may begin with `shared_prefix` tokens that all its rows begin with and that are computed once.
    `replay_rows`, (rows,) bool, tells the rows that replay the retained task; None if none does.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    sequence_ids: torch.Tensor
    shared_prefix: int = 0
    replay_rows: torch.Tensor | None = None

    @property
    def replay_mask(self) -> torch.Tensor:
        """The positions of rows that replay the retained task, (B, T) bool; a shared prefix belongs to no row."""
        own = self.sequence_ids >= 0
        if self.replay_rows is None:
            return own.new_zeros(own.shape)
        if len(own) > 1:  # a row a line
            return own & self.replay_rows[:, None]
        return own & self.replay_rows[self.sequence_ids.clamp(min=0)]

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, padding left out; what they share is counted for each."""
        more = self.shared_prefix * (int(self.sequence_ids[0, -1]) + 1) if self.shared_prefix else 0
        return int((self.sequence_ids >= 0).sum()) + more

    @property
    def num_scored_tokens(self) -> int:
        """Number of scored positions."""
        return int((self.targets != IGNORE_INDEX).sum())

    @property
    def row_lengths(self) -> torch.Tensor | None:
        """Of a packed line: the tokens that all rows share, then those of each by itself, (1 + rows,) int64.

        None for a batch with a row a line.
        """
        if len(self.sequence_ids) > 1 or int(self.sequence_ids[0, -1]) <= 0:
            return None
        counts: torch.Tensor = self.sequence_ids[0, self.shared_prefix :].unique_consecutive(return_counts=True)[1]
        return counts.new_tensor([self.shared_prefix, *counts.tolist()])

    def rows(self) -> Iterator[list[int]]:
        """Yield the tokens that each row reads, those that it shares included."""
        for line, ids in zip(self.input_ids, self.sequence_ids, strict=True):
            for number in range(int(ids.max()) + 1):
                yield [
                    *line[: self.shared_prefix].tolist(),
                    *line[self.shared_prefix :][ids[self.shared_prefix :] == number].tolist(),
                ]


def pad_rows(rows: Sequence[EncodedRow], pad_token_id: int) -> Batch:
    """One row a line, padded on the right to the longest: (B, T).

    No mask is needed: with causal attention what stands to the right of a token never reaches it.
    """
    import torch

    width = max(len(row.token_ids) for row in rows) - 1
    tokens = np.full((len(rows), width + 1), pad_token_id, dtype=np.int64)
    scored = np.zeros((len(rows), width + 1), dtype=bool)
    row_ids = np.full((len(rows), width), PADDING_SEQUENCE_ID, dtype=np.int64)
    for line, row in enumerate(rows):
        tokens[line, : len(row.token_ids)] = row.token_ids
        for first, last in row.spans:
            scored[line, first:last] = True
        row_ids[line, : len(row.token_ids)] = 0
    targets = np.where(scored, tokens, IGNORE_INDEX)[:, 1:]
    positions = np.broadcast_to(np.arange(width), (len(rows), width))
    arrays = (tokens[:, :-1], targets, positions, row_ids)
    ids, aims, places, names = (torch.from_numpy(array.copy()) for array in arrays)
    return Batch(ids, aims, places, names, replay_rows=_replay_rows(rows))


def pack_rows(rows: Sequence[EncodedRow]) -> Batch:
    """Whole rows one after the other in one line (1, T), without padding; positions begin anew with each row.

    What all rows begin with and none is scored on, such as the preamble of a template, stands at the start of the line
    once. Each row leaves its last token out, as nothing follows it.
    """
    import torch

    shared = _shared_prefix_length(rows)
    lengths = [shared, *(len(row.token_ids) - 1 - shared for row in rows)]
    parts = [rows[0].token_ids[:shared], *(row.token_ids[shared:-1] for row in rows)]
    tokens = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=sum(lengths))
    targets = np.full(len(tokens), IGNORE_INDEX, dtype=np.int64)
    start = 0
    for row, length in zip(rows, lengths[1:], strict=True):
        for first, last in row.spans:
            first = max(first, 1)
            targets[start + first - 1 : start + last - 1] = row.token_ids[first:last]
        start += length
    positions = np.concatenate([np.arange(shared), *(shared + np.arange(length) for length in lengths[1:])])
    row_ids = np.repeat([SHARED_PREFIX_ID, *range(len(rows))], lengths)
    ids, aims, places, names = (torch.from_numpy(array[None]) for array in (tokens, targets, positions, row_ids))
    return Batch(ids, aims, places, names, shared, _replay_rows(rows))


def _replay_rows(rows: Sequence[EncodedRow]) -> torch.Tensor | None:
    import torch

    return torch.tensor([row.is_replay for row in rows]) if any(row.is_replay for row in rows) else None


def _shared_prefix_length(rows: Sequence[EncodedRow]) -> int:
    """How many tokens all rows begin with before any is scored; 0 where that is not worth it."""
    if len(rows) < 2:
        return 0
    longest = max(0, min(row.spans[0][0] for row in rows) - 1)
    head, last = (row.token_ids[:longest] for row in (min(rows, key=_tokens), max(rows, key=_tokens)))
    found = next((place for place, (one, other) in enumerate(zip(head, last, strict=True)) if one != other), longest)
    return found if found >= MIN_SHARED_PREFIX else 0


def _tokens(row: EncodedRow) -> tuple[int, ...]:
    return row.token_ids


def with_prefix(row: EncodedRow, prefix_ids: tuple[int, ...]) -> EncodedRow:
    """Return a row with unscored tokens before it.

    >>> with_prefix(EncodedRow("1", (7, 8, 9), 2, ((0, 1),)), (5, 6))
    EncodedRow(id='1', token_ids=(5, 6, 7, 8, 9), completion_start=4, earlier_completions=((2, 3),), is_replay=False)
    """
    shift = len(prefix_ids)
    if not shift:
        return row
    earlier = tuple((first + shift, last + shift) for first, last in row.earlier_completions)
    return EncodedRow(row.id, (*prefix_ids, *row.token_ids), row.completion_start + shift, earlier, row.is_replay)


MAX_PADDING_TOKENS = 768
"""Tokens of padding that a micro-batch may have; another forward pass costs about as much as so many tokens."""


@dataclass(frozen=True)
class Collator:
    """How rows become micro-batches: in packed lines or padded, `batch_rows` and `batch_tokens` at most in each.

    A row that is longer than `batch_tokens` is alone.
    """

    batch_rows: int
    batch_tokens: int
    pad_token_id: int
    packed: bool
    prefix_ids: tuple[int, ...] = ()
    """Token ids to put before each row, such as the virtual tokens of prompt tuning."""

    def batches(self, rows: Iterable[EncodedRow]) -> list[Batch]:
        """Return the micro-batches of rows, those of similar length together."""
        rows = (with_prefix(row, self.prefix_ids) for row in rows)
        return [pack_rows(group) if self.packed else pad_rows(group, self.pad_token_id) for group in self._groups(rows)]

    def _groups(self, rows: Iterable[EncodedRow]) -> Iterator[list[EncodedRow]]:
        group: list[EncodedRow] = []
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
        return len(lengths) * lengths[-1] <= self.batch_tokens and padding <= MAX_PADDING_TOKENS
