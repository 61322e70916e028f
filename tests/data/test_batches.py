"""From examples to batches: what is scored, that no row is lost, and that files give back what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.data.batches import (
    LEAST_SHARED,
    NO_ROW,
    UNSCORED,
    Batch,
    EncodedRow,
    Layout,
    check_supervision,
    documents_of_step,
    encode_prompt,
    encode_row,
    epoch_order,
    packed,
    pad,
    pretraining_batches,
    rows_of_step,
    traversal_steps,
    tuning_batches,
)
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile, write_token_file
from lotune.errors import DataError

EOS, PAD = 0, 1


@st.composite
def encoded_rows(draw: Any, most_tokens: int = 30, most_rows: int = 12) -> list[EncodedRow]:
    """Rows of 2 tokens or more that end with EOS; their ids are their places."""
    lengths = draw(st.lists(st.integers(2, most_tokens), min_size=1, max_size=most_rows))
    rows = []
    for place, length in enumerate(lengths):
        tokens = draw(st.lists(st.integers(2, 299), min_size=length - 1, max_size=length - 1))
        rows.append(EncodedRow(str(place), (*tokens, EOS), draw(st.integers(0, length - 1))))
    return rows


def bodies(rows: list[EncodedRow]) -> list[tuple[tuple[int, ...], int]]:
    return sorted((row.tokens, row.answer_start) for row in rows)


@given(encoded_rows())
def test_exactly_the_answers_are_scored_and_targets_are_shifted_once(rows: list[EncodedRow]) -> None:
    batch = pad(rows, PAD)
    width = max(len(row.tokens) for row in rows) - 1
    for tensor in (batch.input_ids, batch.targets, batch.positions, batch.row_ids):
        assert tensor.shape == (len(rows), width)
        assert tensor.dtype == torch.int64
    for line, row in enumerate(rows):
        length = len(row.tokens)
        for place in range(width):
            follows = place + 1  # the token that position `place` is to predict
            scored = row.answer_start <= follows < length
            assert batch.targets[line, place] == (row.tokens[follows] if scored else UNSCORED)
            assert batch.input_ids[line, place] == (row.tokens[place] if place < length else PAD)
            assert batch.row_ids[line, place] == (0 if place < length else NO_ROW)
        assert batch.targets[line, length - 2] == EOS or row.answer_start == length
        assert batch.positions[line].tolist() == list(range(width))
    assert batch.supervised == sum(len(row.tokens) - max(1, row.answer_start) for row in rows)


@given(encoded_rows())
def test_a_packed_line_holds_each_row_as_it_stands_alone(rows: list[EncodedRow]) -> None:
    line = packed(rows)
    assert line.input_ids.shape == (1, sum(len(row.tokens) - 1 for row in rows))
    start = 0
    for number, row in enumerate(rows):
        alone, stop = pad([row], PAD), start + len(row.tokens) - 1
        assert line.input_ids[0, start:stop].tolist() == alone.input_ids[0].tolist()
        assert line.targets[0, start:stop].tolist() == alone.targets[0].tolist()
        assert line.positions[0, start:stop].tolist() == alone.positions[0].tolist()
        assert line.row_ids[0, start:stop].tolist() == [number] * (stop - start)
        start = stop
    lengths = [len(row.tokens) - 1 for row in rows]
    assert (line.row_lengths is None) == (len(rows) == 1)
    assert line.row_lengths is None or line.row_lengths.tolist() == [0, *lengths]


@given(encoded_rows(), st.lists(st.integers(2, 299), min_size=LEAST_SHARED, max_size=20))
def test_what_rows_begin_with_stands_once(rows: list[EncodedRow], head: list[int]) -> None:
    headed = [
        replace(row, tokens=(*head, *row.tokens), answer_start=len(head) + max(1, row.answer_start)) for row in rows
    ]
    line, lengths = packed(headed), [len(row.tokens) - 1 for row in headed]
    assert line.tokens == sum(lengths)
    assert line.supervised == sum(len(row.tokens) - row.answer_start for row in headed)
    if len(rows) == 1:
        assert line.shared == 0
        return
    assert line.shared >= len(head)
    assert line.input_ids.shape[1] == sum(lengths) - line.shared * (len(rows) - 1)
    assert line.row_lengths is not None
    assert line.row_lengths.tolist() == [line.shared, *(length - line.shared for length in lengths)]
    for number, row in enumerate(headed):
        alone = pad([row], PAD)
        own = (line.row_ids[0] == number).nonzero()[:, 0]
        for found, wanted in ((line.input_ids, alone.input_ids), (line.targets, alone.targets)):
            assert found[0, own].tolist() == wanted[0, line.shared :].tolist()
        assert line.positions[0, own].tolist() == list(range(line.shared, len(row.tokens) - 1))
    assert set(line.targets[0, : line.shared].tolist()) == {UNSCORED}


layouts = st.builds(
    Layout,
    batch_rows=st.integers(1, 9),
    batch_tokens=st.integers(1, 99),
    pad_token_id=st.just(PAD),
    packed=st.booleans(),
)


def rows_of(batch: Batch) -> list[list[int]]:
    """The input tokens of each row of a batch."""
    lines = zip(batch.input_ids.tolist(), batch.row_ids.tolist(), strict=True)
    found: dict[tuple[int, int], list[int]] = {}
    for number, (tokens, row_ids) in enumerate(lines):
        for token, row in zip(tokens, row_ids, strict=True):
            if row != NO_ROW:
                found.setdefault((number, row), []).append(token)
    return list(found.values())


def _paired(found: list[list[int]], rows: list[EncodedRow]) -> list[tuple[list[int], tuple[int, ...]]]:
    """Rows as found beside those that went in: both in the order of their tokens."""
    return list(zip(sorted(found), sorted(row.tokens for row in rows), strict=True))


@given(encoded_rows(), layouts)
def test_a_layout_keeps_every_row_once_and_its_bounds(rows: list[EncodedRow], layout: Layout) -> None:
    batches = layout.batches(rows)
    found = [row for batch in batches for row in rows_of(batch)]
    assert len(found) == len(rows)
    assert sorted(tuple(one)[: len(row) - 1] for one, row in _paired(found, rows)) == sorted(
        row.tokens[:-1] for row in rows
    )
    assert sum(batch.supervised for batch in batches) == sum(len(row.tokens) - max(1, row.answer_start) for row in rows)
    for batch in batches:
        held = len(rows_of(batch))
        assert 1 <= held <= layout.batch_rows
        assert held == 1 or batch.input_ids.numel() <= layout.batch_tokens


def test_rows_of_very_different_length_are_not_padded_to_one_another() -> None:
    rows = [EncodedRow("", (5,) * length, 0) for length in (10, 900, 12, 905)]
    shapes = [tuple(batch.input_ids.shape) for batch in Layout(4, 9999, PAD, packed=False).batches(rows)]
    assert shapes == [(2, 11), (2, 904)]
    assert [batch.input_ids.shape[1] for batch in Layout(4, 9999, PAD, packed=True).batches(rows)] == [1823]


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 10))
def test_an_epoch_draws_each_row_once(rows: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(rows, seed, epoch)) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    """Ten rows; row i begins with token 10 + i."""
    rows = [EncodedRow(str(i), (10 + i, *[5] * (i % 4), 7, EOS), 1 + i % 4) for i in range(10)]
    return write_token_file(tmp_path_factory.mktemp("tokens") / "train", rows, 300)


@given(st.integers(1, 14), layouts, st.integers(1, 9), st.integers(0, 100))
def test_tuning_draws_every_row_before_any_again(
    file: TokenFile, step_rows: int, layout: Layout, steps: int, seed: int
) -> None:
    found = list(tuning_batches(file, layout, step_rows=step_rows, steps=steps, seed=seed))
    assert len(found) == steps
    drawn = [[row[0] - 10 for batch in step for row in rows_of(batch)] for step in found]
    assert all(len(step) == min(step_rows, 10) for step in drawn)
    order = [row for epoch in range(20) for row in epoch_order(10, seed, epoch)]
    for number, step in enumerate(drawn):
        size = len(step)
        assert sorted(step) == sorted(order[number * size : (number + 1) * size])
        assert sorted(step) == sorted(rows_of_step(len(file), step_rows, seed, number + 1))


def test_a_token_file_knows_where_its_rows_came_from(tmp_path: Path) -> None:
    file = write_token_file(tmp_path / "train", [EncodedRow(f"a.jsonl:{n}", (5, EOS), 1) for n in (3, 8, 9)], 300)
    assert file.ids([2, 0]) == ["a.jsonl:9", "a.jsonl:3"]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 50))
def test_a_pretraining_step_has_as_many_rows_as_fit(file: TokenFile, budget: int, steps: int, seed: int) -> None:
    found = [batch for [batch] in pretraining_batches(file, batch_tokens=budget, steps=steps, seed=seed)]
    assert len(found) == steps
    sizes = [batch.input_ids.shape[1] for batch in found]
    starts = [[batch.input_ids[0, batch.positions[0] == 0]] for batch in found]
    drawn = [int(token) - 10 for [tokens] in starts for token in tokens]
    assert drawn == [row for epoch in range(50) for row in epoch_order(10, seed, epoch)][: len(drawn)]
    for size, [tokens], [after] in zip(sizes, starts, [*starts[1:], [None]], strict=True):
        assert size <= budget or len(tokens) == 1
        if after is not None:
            following = len(file[int(after[0]) - 10].tokens) - 1
            assert size + following > budget
    later = pretraining_batches(file, batch_tokens=budget, steps=steps, seed=seed, first_step=steps)
    assert torch.equal(next(later)[0].input_ids, found[-1].input_ids)


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 50))
def test_passes_of_a_pretraining_step_hold_its_rows(file: TokenFile, budget: int, most: int, seed: int) -> None:
    whole = [batch for [batch] in pretraining_batches(file, batch_tokens=budget, steps=4, seed=seed)]
    parts = pretraining_batches(file, batch_tokens=budget, steps=4, seed=seed, pass_tokens=most)
    for one, lines in zip(whole, parts, strict=True):
        assert torch.equal(one.input_ids, torch.cat([line.input_ids for line in lines], 1))
        assert torch.equal(one.targets, torch.cat([line.targets for line in lines], 1))
        assert all(line.input_ids.shape[1] <= most or int((line.positions == 0).sum()) == 1 for line in lines)


@given(st.integers(1, 40), st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0]))
def test_an_epoch_reads_every_row(file: TokenFile, budget: int, seed: int, epochs: float) -> None:
    steps = traversal_steps(file, batch_tokens=budget, seed=seed, epochs=epochs)
    drawn = [documents_of_step(file, batch_tokens=budget, seed=seed, step=step) for step in range(1, steps + 1)]
    read = [row for rows in drawn for row in rows]
    assert len(read) - len(drawn[-1]) < epochs * len(file) <= len(read)
    assert len(set(read)) == min(1.0, epochs) * len(file) or len(read) > epochs * len(file)


@settings(max_examples=15)
@given(rows=encoded_rows(), vocabulary=st.sampled_from([300, 2**16, 2**16 + 1]))
def test_a_token_file_gives_back_its_rows(
    rows: list[EncodedRow], vocabulary: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stem = tmp_path_factory.mktemp("file") / "new" / "train"
    written = write_token_file(stem, iter(rows), vocabulary)
    read = TokenFile(stem)
    for file in (written, read):
        assert [(file[i].tokens, file[i].answer_start) for i in range(len(file))] == [
            (row.tokens, row.answer_start) for row in rows
        ]
        assert file.lengths().tolist() == [len(row.tokens) for row in rows]
        assert file.supervised() == sum(pad([row], PAD).supervised for row in rows)
    assert np.load(stem.with_suffix(".tokens.npy")).dtype == (np.uint16 if vocabulary <= 2**16 else np.uint32)
    assert not list(stem.parent.glob(".*"))


def test_the_highest_id_of_each_width_survives(tmp_path: Path) -> None:
    for vocabulary in (2**16, 200_000):
        file = write_token_file(tmp_path / str(vocabulary), [EncodedRow("", (vocabulary - 1, 0), 1)], vocabulary)
        assert file[0].tokens == (vocabulary - 1, 0)


def test_a_file_without_rows(tmp_path: Path) -> None:
    assert len(write_token_file(tmp_path / "none", [], 300)) == 0


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_row_is_its_prompt_its_answer_and_an_end(byte_tokenizer: Any, prompt: str, answer: str) -> None:
    row = encode_row(byte_tokenizer, Example("a", prompt, answer))
    assert row.tokens[: row.answer_start] == tuple(encode_prompt(byte_tokenizer, Example("a", prompt, ""), 10**6)[0])
    assert row.tokens[-1] == byte_tokenizer.eos_token_id
    assert byte_tokenizer.decode(row.tokens[row.answer_start : -1]) == answer
    check_supervision(row, byte_tokenizer.eos_token_id)


def test_begin_of_text_is_added_and_end_of_text_is_not(byte_tokenizer: Any) -> None:
    class Adding:
        """A tokeniser that puts 300 before and the end-of-text after every text, as T5's and some Llamas' do."""

        eos_token_id = byte_tokenizer.eos_token_id

        def __call__(self, text: str, add_special_tokens: bool, **how: bool) -> dict[str, list[int]]:
            ids = byte_tokenizer(text, **how)["input_ids"]
            return {"input_ids": [300, *ids, self.eos_token_id] if add_special_tokens else ids}

    row = encode_row(Adding(), Example("a", "1+1=", "2"))
    plain = encode_row(byte_tokenizer, Example("a", "1+1=", "2"))
    assert row.tokens == (300, *plain.tokens)
    assert row.answer_start == plain.answer_start + 1


@given(st.sampled_from(["<|endoftext|>", "<|pad|>"]), st.text(), st.text())
def test_special_tokens_in_a_rows_own_text_are_text(byte_tokenizer: Any, name: str, before: str, after: str) -> None:
    text = before + name + after
    row = encode_row(byte_tokenizer, Example("a", text, text))
    assert row.tokens.count(byte_tokenizer.eos_token_id) == 1
    assert byte_tokenizer.pad_token_id not in row.tokens
    assert byte_tokenizer.decode(row.tokens[row.answer_start : -1]) == text
    assert encode_prompt(byte_tokenizer, Example("a", text, ""), 10**6)[0] == list(row.tokens[: row.answer_start])


def parts(head: str, middle: str, tail: str) -> Example:
    return Example("r7", head + middle + tail, "", prompt_parts=(head, middle, tail))


@given(st.integers(1, 40))
def test_a_long_passage_is_cut_at_its_end(byte_tokenizer: Any, budget: int) -> None:
    example = parts("head ", "x" * 50 + "passage", " question?")
    smallest = len("head  question?") + 1
    if budget < smallest:
        with pytest.raises(DataError, match="r7"):
            encode_prompt(byte_tokenizer, example, budget)
        return
    ids, cut = encode_prompt(byte_tokenizer, example, budget)
    assert cut
    assert len(ids) == budget
    assert byte_tokenizer.decode(ids) == "head " + "x" * (budget - smallest + 1) + " question?"


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_a_prompt_without_a_passage_loses_its_middle(
    byte_tokenizer: Any, length: int, budget: int, passage: bool
) -> None:
    text = "".join(chr(ord("0") + place % 75) for place in range(length))
    example = parts(text[:1], "", text[1:]) if passage else Example("r7", text, "")
    ids, cut = encode_prompt(byte_tokenizer, example, budget, truncate=True)
    shown = byte_tokenizer.decode(ids)
    assert len(shown) == min(length, budget)
    assert cut == (length > budget)
    first = (len(shown) + 1) // 2
    assert text.startswith(shown[:first])
    assert text.endswith(shown[first:])


def test_a_prompt_that_fits_is_left_alone(byte_tokenizer: Any) -> None:
    example = parts("a", "b", "c")
    assert encode_prompt(byte_tokenizer, example, 3) == (byte_tokenizer("abc")["input_ids"], False)
    with pytest.raises(DataError, match="row 5: the prompt has 4 tokens"):
        encode_prompt(byte_tokenizer, Example("5", "abcd", ""), 3)


@pytest.mark.parametrize(
    ("tokens", "start", "said"),
    [((5, 6, EOS), 2, "no token of its answer"), ((5, 6, EOS), 3, "no token"), ((5, 6, 7), 1, "end-of-text")],
)
def test_a_row_that_teaches_nothing_is_refused(tokens: tuple[int, ...], start: int, said: str) -> None:
    with pytest.raises(DataError, match=f"row train.jsonl:12: .*{said}"):
        check_supervision(EncodedRow("train.jsonl:12", tokens, start), EOS)
