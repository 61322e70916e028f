"""From rows to micro-batches: what is scored, and that no row is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.collate import (
    IGNORE_INDEX,
    MIN_SHARED_PREFIX,
    PADDING_SEQUENCE_ID,
    Batch,
    Collator,
    pack_rows,
    pad_rows,
)
from lotune.data.tokenized import EncodedRow

EOS, PAD = 0, 1


@st.composite
def encoded_rows(draw: Any, most_tokens: int = 30, most_rows: int = 12) -> list[EncodedRow]:
    """Rows of 2 tokens or more that end with EOS; no two begin with the same token; their ids are their indices."""
    lengths = draw(st.lists(st.integers(2, most_tokens), min_size=1, max_size=most_rows))
    rows = []
    for index, length in enumerate(lengths):
        tokens = draw(st.lists(st.integers(2, 299), min_size=length - 2, max_size=length - 2))
        rows.append(EncodedRow(str(index), (2 + index, *tokens, EOS), draw(st.integers(0, length - 1))))
    return rows


def bodies(rows: list[EncodedRow]) -> list[tuple[tuple[int, ...], int]]:
    return sorted((row.token_ids, row.completion_start) for row in rows)


@given(encoded_rows())
def test_exactly_the_answers_are_scored_and_targets_are_shifted_once(rows: list[EncodedRow]) -> None:
    batch = pad_rows(rows, PAD)
    width = max(len(row.token_ids) for row in rows) - 1
    for tensor in (batch.input_ids, batch.targets, batch.positions, batch.sequence_ids):
        assert tensor.shape == (len(rows), width)
        assert tensor.dtype == torch.int64
    for line, row in enumerate(rows):
        length = len(row.token_ids)
        for index in range(width):
            follows = index + 1  # the token that position `place` is to predict
            scored = row.completion_start <= follows < length
            assert batch.targets[line, index] == (row.token_ids[follows] if scored else IGNORE_INDEX)
            assert batch.input_ids[line, index] == (row.token_ids[index] if index < length else PAD)
            assert batch.sequence_ids[line, index] == (0 if index < length else PADDING_SEQUENCE_ID)
        assert batch.targets[line, length - 2] == EOS or row.completion_start == length
        assert batch.positions[line].tolist() == list(range(width))
    assert batch.num_scored_tokens == sum(len(row.token_ids) - max(1, row.completion_start) for row in rows)


@given(encoded_rows())
def test_a_packed_line_has_each_row_as_it_is_alone(rows: list[EncodedRow]) -> None:
    line = pack_rows(rows)
    assert line.input_ids.shape == (1, sum(len(row.token_ids) - 1 for row in rows))
    start = 0
    for number, row in enumerate(rows):
        alone, stop = pad_rows([row], PAD), start + len(row.token_ids) - 1
        assert line.input_ids[0, start:stop].tolist() == alone.input_ids[0].tolist()
        assert line.targets[0, start:stop].tolist() == alone.targets[0].tolist()
        assert line.positions[0, start:stop].tolist() == alone.positions[0].tolist()
        assert line.sequence_ids[0, start:stop].tolist() == [number] * (stop - start)
        start = stop
    lengths = [len(row.token_ids) - 1 for row in rows]
    assert (line.row_lengths is None) == (len(rows) == 1)
    assert line.row_lengths is None or line.row_lengths.tolist() == [0, *lengths]


@given(encoded_rows(), st.lists(st.integers(2, 299), min_size=MIN_SHARED_PREFIX, max_size=20))
def test_a_shared_prefix_is_stored_once(rows: list[EncodedRow], head: list[int]) -> None:
    headed = [
        replace(row, token_ids=(*head, *row.token_ids), completion_start=len(head) + max(1, row.completion_start))
        for row in rows
    ]
    line, lengths = pack_rows(headed), [len(row.token_ids) - 1 for row in headed]
    assert line.num_tokens == sum(lengths)
    assert line.num_scored_tokens == sum(len(row.token_ids) - row.completion_start for row in headed)
    if len(rows) == 1:
        assert line.shared_prefix == 0
        return
    assert line.shared_prefix >= len(head)
    assert line.input_ids.shape[1] == sum(lengths) - line.shared_prefix * (len(rows) - 1)
    assert line.row_lengths is not None
    assert line.row_lengths.tolist() == [line.shared_prefix, *(length - line.shared_prefix for length in lengths)]
    for number, row in enumerate(headed):
        alone = pad_rows([row], PAD)
        own = (line.sequence_ids[0] == number).nonzero()[:, 0]
        for result, expected in ((line.input_ids, alone.input_ids), (line.targets, alone.targets)):
            assert result[0, own].tolist() == expected[0, line.shared_prefix :].tolist()
        assert line.positions[0, own].tolist() == list(range(line.shared_prefix, len(row.token_ids) - 1))
    assert set(line.targets[0, : line.shared_prefix].tolist()) == {IGNORE_INDEX}


layouts = st.builds(
    Collator,
    batch_rows=st.integers(1, 9),
    batch_tokens=st.integers(1, 99),
    pad_token_id=st.just(PAD),
    packed=st.booleans(),
)


def rows_of(batch: Batch) -> list[list[int]]:
    """The input tokens of each row of a batch."""
    lines = zip(batch.input_ids.tolist(), batch.sequence_ids.tolist(), strict=True)
    result: dict[tuple[int, int], list[int]] = {}
    for number, (tokens, row_ids) in enumerate(lines):
        for token, row in zip(tokens, row_ids, strict=True):
            if row != PADDING_SEQUENCE_ID:
                result.setdefault((number, row), []).append(token)
    return list(result.values())


def _paired(found: list[list[int]], rows: list[EncodedRow]) -> list[tuple[list[int], tuple[int, ...]]]:
    """Rows as found beside those that went in: both in the order of their tokens."""
    return list(zip(sorted(found), sorted(row.token_ids for row in rows), strict=True))


@given(encoded_rows(), layouts)
def test_a_collator_keeps_every_row_once_and_its_limits(rows: list[EncodedRow], layout: Collator) -> None:
    batches = layout.batches(rows)
    results = [row for batch in batches for row in rows_of(batch)]
    assert len(results) == len(rows)
    assert sorted(tuple(one)[: len(row) - 1] for one, row in _paired(results, rows)) == sorted(
        row.token_ids[:-1] for row in rows
    )
    assert sum(batch.num_scored_tokens for batch in batches) == sum(
        len(row.token_ids) - max(1, row.completion_start) for row in rows
    )
    for batch in batches:
        held = len(rows_of(batch))
        assert 1 <= held <= layout.batch_rows
        assert held == 1 or batch.input_ids.numel() <= layout.batch_tokens


def test_rows_of_very_different_length_are_not_padded_to_one_another() -> None:
    rows = [EncodedRow("", (5,) * length, 0) for length in (10, 900, 12, 905)]
    shapes = [tuple(batch.input_ids.shape) for batch in Collator(4, 9999, PAD, packed=False).batches(rows)]
    assert shapes == [(2, 11), (2, 904)]
    assert [batch.input_ids.shape[1] for batch in Collator(4, 9999, PAD, packed=True).batches(rows)] == [1823]


def test_replay_rows_stand_apart_where_the_task_shares_a_long_prefix() -> None:
    head = tuple(range(10, 110))
    task = [EncodedRow(str(index), (*head, 200 + index, EOS), 101) for index in range(10)]
    replay = [EncodedRow(f"replay {index}", (5, 220 + index, EOS), 2, is_replay=True) for index in range(4)]
    layout = Collator(32, 4096, PAD, packed=True)
    apart, together = layout.batches([*replay, *task]), layout.batches([*replay, *task[:5]])
    assert [(len(list(batch.rows())), batch.shared_prefix) for batch in apart] == [(10, 100), (4, 0)]
    assert [(len(list(batch.rows())), batch.shared_prefix) for batch in together] == [(9, 0)]  # 400 tokens are too few
    assert [batch.replay_rows is None for batch in apart] == [True, False]


@given(encoded_rows(), st.lists(st.booleans(), min_size=12, max_size=12), st.booleans())
def test_replay_rows_keep_their_mark_in_packed_and_padded_lines(
    rows: list[EncodedRow], marks: list[bool], packed: bool
) -> None:
    """Each position of a replay row is masked and no other; rows differ in their first token."""
    marked = [replace(row, is_replay=mark) for row, mark in zip(rows, marks, strict=False)]
    firsts = []
    for batch in Collator(4, 60, PAD, packed).batches(marked):
        mask, lines = batch.replay_mask, torch.arange(len(batch.input_ids))[:, None]
        row_numbers = torch.where(batch.sequence_ids < 0, -1, batch.sequence_ids + 1000 * lines)
        assert mask.shape == batch.input_ids.shape
        assert not mask[row_numbers < 0].any()
        for number in row_numbers.unique().tolist():
            assert mask[row_numbers == number].unique().numel() == 1
        firsts += batch.input_ids[mask & (batch.positions == 0)].tolist()
        assert (batch.replay_rows is None) == (not mask.any())
    assert sorted(firsts) == sorted(row.token_ids[0] for row in marked if row.is_replay)


def test_a_shared_prefix_is_no_part_of_a_replay_row() -> None:
    head = tuple(range(100, 100 + MIN_SHARED_PREFIX))
    rows = [EncodedRow(str(n), (*head, 2 + n, 9, EOS), len(head) + 1, is_replay=n == 1) for n in range(3)]
    batch = pack_rows(rows)
    assert batch.shared_prefix == len(head)
    assert batch.input_ids[batch.replay_mask].tolist() == [3, 9]
