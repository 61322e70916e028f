"""Copying: what is generated, what counts as a copy, and which rows are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.tasks.copying import COPY_INSTRUCTIONS, CopyingSettings, CopyingTask
from lotune.tasks.reading.passage_generator import is_unseen
from lotune.tasks.task import Example, Row

LINES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=30)


def example_of(row: Row) -> Example:
    [example] = CopyingTask().examples([("row 1", row)], training=False)
    return example


def names_of(rows: list[Row]) -> set[str]:
    return {word for row in rows for word in re.findall(r"[A-Z][a-z]+|[\u4e00-\u9fff]+", row["text"])}


@pytest.mark.parametrize("language", ["zh", "en", "both"])
def test_training_rows_and_test_rows_have_different_names(language: str) -> None:
    task = CopyingTask(CopyingSettings.model_validate({"language": language}))
    test, training = names_of(list(task.generate_rows(300, 1))), names_of(list(task.generate_training_rows(300, 1)))
    assert len(test) > 50
    assert all(map(is_unseen, test))
    assert not any(map(is_unseen, training))


def test_the_language_decides_the_instruction_and_the_names() -> None:
    for language, instructions in COPY_INSTRUCTIONS.items():
        task = CopyingTask(CopyingSettings.model_validate({"language": language}))
        rows = list(task.generate_rows(100, 2))
        assert {row["instruction"] for row in rows} == set(instructions)
        assert all(name.isascii() is (language == "en") for name in names_of(rows))
    both = CopyingTask(CopyingSettings(language="both")).generate_rows(100, 2)
    assert {row["instruction"] for row in both} == {text for texts in COPY_INSTRUCTIONS.values() for text in texts}


def test_three_kinds_of_texts_are_short_lines() -> None:
    examples = list(CopyingTask().examples([("", row) for row in CopyingTask().generate_rows(300, 3)], training=True))
    assert {example.category for example in examples} == {"numbers", "words", "words and numbers"}
    assert all(len(example.target) <= 105 and "\n" not in example.target for example in examples)


@given(text=LINES, after=st.text("\n abc", max_size=9))
def test_a_copy_is_right_whatever_lines_follow(text: str, after: str) -> None:
    example = example_of({"text": text})
    assert CopyingTask().judge(example, f"\n {text} \n{after}").correct is True
    assert CopyingTask().judge(example, f"{text}.").correct is False


@given(text=LINES)
def test_the_prompt_holds_instruction_and_text(text: str) -> None:
    example = example_of({"instruction": "抄写：", "text": text})
    assert f"### Instruction:\n抄写：{text}\n\n### Response:" in example.prompt
    assert example.target == text
    assert example_of({"text": text}).prompt == example_of({"instruction": "Repeat: ", "text": text}).prompt


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"txt": "a"}, "has txt"),
        ({"text": "two\nlines"}, "not one line"),
        ({"text": " "}, "not one line"),
        ({"text": ""}, "not one line"),
        ({"text": "a", "instruction": 3}, "has text, instruction"),
    ],
)
def test_a_row_without_a_line_to_copy_is_refused(row: Row, found: str) -> None:
    with pytest.raises(DataError, match=found) as error:
        example_of(row)
    assert error.value.where == "row 1"


def test_a_file_of_texts_needs_no_instruction(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text\n1 + 2\nTalvo\n", encoding="utf-8")
    examples = list(CopyingTask().examples(CopyingTask().read(file).rows, training=False))
    assert [example.target for example in examples] == ["1 + 2", "Talvo"]
