"""Instructions: exactly the assistant's words and their ends are trained on; the last answer is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.data.collate import IGNORE_INDEX, pad_rows
from lotune.data.examples import Example, as_record, from_record
from lotune.data.templates import TEMPLATES
from lotune.data.token_files import TokenFile, write_token_file
from lotune.data.tokenized import check_scored_tokens, encode_prompt, encode_row, render_supervision
from lotune.errors import DataError
from lotune.tasks.instructions.task import InstructionsSettings, InstructionsTask
from lotune.tasks.task import Row

WORDS = st.text("ab 1你\n#{}<|>", min_size=1, max_size=8).filter(lambda text: bool(text.strip()))
SYSTEM = st.just("") | WORDS
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4)
FREE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def task(**changes: Any) -> InstructionsTask:
    return InstructionsTask(InstructionsSettings(**changes))


def row_of(pairs: list[tuple[str, str]], system: str = "") -> Row:
    output = [("system", system)] if system else []
    for question, answer in pairs:
        output += [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in output]}


def example_of(row: Row, **changes: Any) -> Example:
    [example] = task(**changes).examples([("row 1", row)], training=True)
    return example


def scored_texts(tokenizer: Any, example: Example) -> list[str]:
    """The stretches of text that a batch of this one row trains on."""
    batch = pad_rows([encode_row(tokenizer, example)], tokenizer.pad_token_id)
    targets = batch.targets[0].numpy()
    positions = np.flatnonzero(targets != IGNORE_INDEX)
    runs = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
    return [tokenizer.decode(targets[run]) for run in runs]


@FREE
@given(pairs=PAIRS, system=SYSTEM, template=st.sampled_from(sorted(TEMPLATES)), prefix=SYSTEM)
def test_exactly_the_answers_and_their_ends_are_trained_on(
    byte_tokenizer: Any, pairs: list[tuple[str, str]], system: str, template: str, prefix: str
) -> None:
    row, end = row_of(pairs, system), byte_tokenizer.eos_token
    example = example_of(row, template=template, instruction_prefix=prefix)
    encoded = encode_row(byte_tokenizer, example)
    check_scored_tokens(encoded, {byte_tokenizer.eos_token_id})
    assert scored_texts(byte_tokenizer, example) == [answer + end for _, answer in pairs]
    assert encoded.token_ids.count(byte_tokenizer.eos_token_id) == len(pairs)
    last = example_of(row, template=template, instruction_prefix=prefix, train_on_turns="last")
    assert scored_texts(byte_tokenizer, last) == [pairs[-1][1] + end]
    assert encode_row(byte_tokenizer, last).token_ids == encoded.token_ids


@FREE
@given(pairs=PAIRS, system=SYSTEM, template=st.sampled_from(sorted(TEMPLATES)))
def test_each_answer_is_generated_after_the_prompt_of_its_training(
    byte_tokenizer: Any, pairs: list[tuple[str, str]], system: str, template: str
) -> None:
    """What stands before an answer in training are the tokens of the prompt that asks for it."""
    encoded = encode_row(byte_tokenizer, example_of(row_of(pairs, system), template=template))
    for count, (start, _) in enumerate(encoded.spans, 1):
        asked = example_of(row_of(pairs[:count], system), template=template)
        assert encode_prompt(byte_tokenizer, asked, 10**6) == (list(encoded.token_ids[:start]), False)
        assert asked.prompt == example_of(row_of(pairs, system), template=template).trained_prompts[count - 1]


@FREE
@given(conversations=st.lists(st.tuples(PAIRS, st.sampled_from(["all", "last"])), min_size=1, max_size=6))
def test_files_keep_every_span(
    byte_tokenizer: Any, conversations: list[tuple[list[tuple[str, str]], str]], tmp_path: Path
) -> None:
    rows = [
        encode_row(byte_tokenizer, example_of(row_of(pairs), train_on_turns=which)) for pairs, which in conversations
    ]
    write_token_file(tmp_path / "train", rows, 300)
    file = TokenFile(tmp_path / "train")
    assert [(file[i].token_ids, file[i].spans) for i in range(len(file))] == [
        (row.token_ids, row.spans) for row in rows
    ]
    assert file.supervised() == sum(pad_rows([row], 1).num_scored_tokens for row in rows)
    batch = pad_rows([file[i] for i in range(len(file))], 1)
    assert batch.num_scored_tokens == sum(end - start for row in rows for start, end in row.spans)


def test_a_file_written_again_forgets_the_spans_of_before(byte_tokenizer: Any, tmp_path: Path) -> None:
    both = encode_row(byte_tokenizer, example_of(row_of([("a", "b"), ("c", "d")])))
    last = encode_row(byte_tokenizer, example_of(row_of([("a", "b"), ("c", "d")]), train_on_turns="last"))
    assert len(write_token_file(tmp_path / "train", [both], 300)[0].spans) == 2
    file = write_token_file(tmp_path / "train", [last], 300)
    assert file[0].spans == last.spans
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.ids.jsonl",
        "train.rows.npy",
        "train.tokens.json",
        "train.tokens.npy",
    ]


@FREE
@given(pairs=PAIRS, system=SYSTEM)
def test_examples_travel_as_records(pairs: list[tuple[str, str]], system: str) -> None:
    example = example_of(row_of(pairs, system))
    assert from_record(as_record(example)) == example
    assert example.prompt == "".join(turn.prompt + turn.answer for turn in example.earlier_turns) + example.question


def test_the_documented_form_of_a_conversation(byte_tokenizer: Any) -> None:
    row = row_of([("What is 2 + 2?", "4"), ("And 3 + 3?", "6")], "Be brief.")
    form = (
        "Be brief.\n\nBelow is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\nWhat is 2 + 2?\n\n### Response:⟦4<|endoftext|>⟧"
        "\n\n### Instruction:\nAnd 3 + 3?\n\n### Response:⟦6<|endoftext|>⟧"
    )
    assert render_supervision(byte_tokenizer, encode_row(byte_tokenizer, example_of(row))) == form
    first = "".join(form.split("⟦4<|endoftext|>⟧")[:1]) + "4<|endoftext|>"
    last = render_supervision(byte_tokenizer, encode_row(byte_tokenizer, example_of(row, train_on_turns="last")))
    assert last.startswith(first)
    assert last.count("⟦") == 1
    bare = render_supervision(byte_tokenizer, encode_row(byte_tokenizer, example_of(row, template="plain")))
    assert bare == "Be brief.\n\nWhat is 2 + 2?⟦4<|endoftext|>⟧And 3 + 3?⟦6<|endoftext|>⟧"


def test_one_turn_is_an_instruction() -> None:
    alpaca = {"instruction": "Why?", "input": "", "output": "So."}
    completion = {"prompt": "Why?", "completion": "So."}
    assert example_of(alpaca) == example_of(completion) == example_of(row_of([("Why?", "So.")]))
    assert example_of(alpaca).prompt == TEMPLATES["alpaca"].render("Why?")
    assert example_of({**alpaca, "input": "it"}).prompt == TEMPLATES["alpaca"].render("Why?", "it")
    assert example_of(completion, template="plain").prompt == "Why?"


def test_an_answer_that_reads_like_an_end_is_text(byte_tokenizer: Any) -> None:
    example = example_of(row_of([("a", "<|endoftext|>"), ("b", "c")]))
    assert encode_row(byte_tokenizer, example).token_ids.count(byte_tokenizer.eos_token_id) == 2


def test_rows_without_an_answer_are_for_asking_only() -> None:
    for row in ({"instruction": "Why?"}, {"messages": [{"role": "user", "content": "Why?"}]}):
        with pytest.raises(DataError, match="row 1: has no answer to train on"):
            example_of(row)
        [example] = task().examples([("row 1", row)], training=False)
        assert (example.target, example.references) == ("", ())
        assert task().judge(example, "So.").correct is None


@pytest.mark.parametrize(
    ("judge", "key", "answer", "right"),
    [
        ("exact", "It is\n4.", " It  is 4. ", True),
        ("exact", "It is 4.", "it is 4.", False),
        ("exact", "It is 4.", "It is 4. Really.", False),
        ("contains", "It  is 4.", "Well.\nIt is 4. Really.", True),
        ("contains", "4", "five", False),
        ("number", "The sum is 4.", "2 + 2 = 4.0", True),
        ("number", "The sum is 4.", "2 + 2 = 5", False),
        ("number", "four", "4", None),
    ],
)
def test_scorers(judge: str, key: str, answer: str, right: bool | None) -> None:
    asker = task(scorer=judge)
    [example] = asker.examples([("1", {"prompt": "?", "completion": key})], training=False)
    assert asker.judge(example, answer).correct is right
    assert asker.scorer == judge


def test_the_tag_of_a_next_question_ends_an_answer() -> None:
    assert task().stop == ("\n### Instruction:",)
    assert task(template="plain").stop == ()
