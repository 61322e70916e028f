"""Prompt and answer of an example to tokens: what a row is made of, and what of a prompt is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.examples import Example
from lotune.data.tokenized import EncodedRow, check_scored_tokens, encode_prompt, encode_row
from lotune.errors import DataError
from tests.data.test_collate import EOS


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_row_is_its_prompt_its_answer_and_an_end(byte_tokenizer: Any, prompt: str, answer: str) -> None:
    row = encode_row(byte_tokenizer, Example("a", prompt, answer))
    assert row.token_ids[: row.completion_start] == tuple(
        encode_prompt(byte_tokenizer, Example("a", prompt, ""), 10**6)[0]
    )
    assert row.token_ids[-1] == byte_tokenizer.eos_token_id
    assert byte_tokenizer.decode(row.token_ids[row.completion_start : -1]) == answer
    check_scored_tokens(row, {byte_tokenizer.eos_token_id})


def test_begin_of_text_is_added_and_end_of_text_is_not(byte_tokenizer: Any) -> None:
    class Adding:
        """A tokeniser that puts 300 before and the end-of-text after every text, as T5's and some Llamas' do."""

        eos_token_id = byte_tokenizer.eos_token_id

        def __call__(self, text: str, add_special_tokens: bool, **how: bool) -> dict[str, list[int]]:
            ids = byte_tokenizer(text, **how)["input_ids"]
            return {"input_ids": [300, *ids, self.eos_token_id] if add_special_tokens else ids}

    row = encode_row(Adding(), Example("a", "1+1=", "2"))
    plain = encode_row(byte_tokenizer, Example("a", "1+1=", "2"))
    assert row.token_ids == (300, *plain.token_ids)
    assert row.completion_start == plain.completion_start + 1


@given(st.sampled_from(["<|endoftext|>", "<|pad|>"]), st.text(), st.text())
def test_special_tokens_in_the_text_of_a_row_are_text(byte_tokenizer: Any, name: str, before: str, after: str) -> None:
    text = before + name + after
    row = encode_row(byte_tokenizer, Example("a", text, text))
    assert row.token_ids.count(byte_tokenizer.eos_token_id) == 1
    assert byte_tokenizer.pad_token_id not in row.token_ids
    assert byte_tokenizer.decode(row.token_ids[row.completion_start : -1]) == text
    assert encode_prompt(byte_tokenizer, Example("a", text, ""), 10**6)[0] == list(
        row.token_ids[: row.completion_start]
    )


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
    text = "".join(chr(ord("0") + index % 75) for index in range(length))
    example = parts(text[:1], "", text[1:]) if passage else Example("r7", text, "")
    ids, cut = encode_prompt(byte_tokenizer, example, budget, truncate=True)
    displayed = byte_tokenizer.decode(ids)
    assert len(displayed) == min(length, budget)
    assert cut == (length > budget)
    first = (len(displayed) + 1) // 2
    assert text.startswith(displayed[:first])
    assert text.endswith(displayed[first:])


def test_a_prompt_that_fits_is_left_alone(byte_tokenizer: Any) -> None:
    example = parts("a", "b", "c")
    assert encode_prompt(byte_tokenizer, example, 3) == (byte_tokenizer("abc")["input_ids"], False)
    with pytest.raises(DataError, match="row 5: the prompt has 4 tokens"):
        encode_prompt(byte_tokenizer, Example("5", "abcd", ""), 3)


@pytest.mark.parametrize(
    ("tokens", "start", "message"),
    [((5, 6, EOS), 2, "no token of its answer"), ((5, 6, EOS), 3, "no token"), ((5, 6, 7), 1, "end-of-text")],
)
def test_a_row_without_scored_tokens_is_refused(tokens: tuple[int, ...], start: int, message: str) -> None:
    with pytest.raises(DataError, match=f"row train.jsonl:12: .*{message}"):
        check_scored_tokens(EncodedRow("train.jsonl:12", tokens, start), {EOS})
