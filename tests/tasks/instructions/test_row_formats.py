"""Shapes of rows: each is known by its fields, others are refused with what may mend them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.data.conversation import Conversation
from lotune.errors import DataError
from lotune.tasks.instructions.row_formats import (
    INSTRUCTION_FIELDS,
    ROW_FORMATS,
    conversation_of,
    format_of,
    suggested_columns,
)
from lotune.tasks.instructions.task import InstructionsSettings, InstructionsTask
from lotune.tasks.task import Row

TASK = InstructionsTask()
EXTRA = st.sampled_from(["\n", "\t", '"', ",", "，", "#", "é", "🙂", "\\", "{input}", "'", ";"])
TEXT = st.lists(st.text("abc 1你好", min_size=1, max_size=6) | EXTRA, min_size=1, max_size=5).map("".join)
WORDS = TEXT.filter(lambda text: bool(text.strip()))
CELLS = WORDS.filter(lambda text: "\t" not in text and "\n" not in text and "\r" not in text)
FREE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)


def turns(conversation: Conversation, keys: tuple[str, str], names: tuple[str, str]) -> list[dict[str, str]]:
    """The turns of a conversation, the last answer left out where it is missing."""
    output = [("system", conversation.system)] if conversation.system else []
    for pair in zip(conversation.questions, conversation.answers, strict=True):
        output += list(zip(names, pair, strict=True))
    if not output[-1][1]:
        output.pop()
    return [dict(zip(keys, item, strict=True)) for item in output]


def as_row(shape: str, conversation: Conversation) -> Row:
    if shape == "messages":
        return {"messages": turns(conversation, ("role", "content"), ("user", "assistant"))}
    if shape == "conversations":
        return {"id": "a", "conversations": turns(conversation, ("from", "value"), ("human", "gpt"))}
    question, answer = conversation.questions[0], conversation.answers[0]
    if shape == "completion":
        return {"prompt": question, "completion": answer}
    return {"instruction": question, "input": conversation.input, "output": answer, "system": conversation.system}


@st.composite
def conversations(draw: st.DrawFn, shape: str) -> Conversation:
    if shape == "completion":
        return Conversation((draw(WORDS),), (draw(st.just("") | WORDS),))
    system = draw(st.just("") | WORDS)
    if shape == "alpaca":
        return Conversation((draw(WORDS),), (draw(st.just("") | WORDS),), system, draw(st.just("") | WORDS))
    count = draw(st.integers(1, 4))
    questions = draw(st.lists(WORDS, min_size=count, max_size=count))
    answers = draw(st.lists(WORDS, min_size=count - 1, max_size=count - 1))
    return Conversation(tuple(questions), (*answers, draw(st.just("") | WORDS)), system)


@pytest.mark.parametrize("shape", [shape.name for shape in ROW_FORMATS])
@FREE
@given(data=st.data())
def test_a_conversation_has_the_texts_of_its_row(shape: str, data: st.DataObject) -> None:
    conversation = data.draw(conversations(shape))
    row = as_row(shape, conversation)
    known = format_of(row)
    assert known is not None
    assert known.name == shape
    assert conversation_of("row 1", row) == conversation


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("shape", [shape.name for shape in ROW_FORMATS])
@FREE
@given(data=st.data())
def test_written_rows_are_read_again(shape: str, mark: str, name: str, data: st.DataObject, tmp_path: Path) -> None:
    """With a byte-order mark and Windows' line ends, too."""
    rows = [as_row(shape, item) for item in data.draw(st.lists(conversations(shape), min_size=1, max_size=4))]
    TASK.write(tmp_path / name, rows)
    content = (tmp_path / name).read_bytes()
    if mark:
        (tmp_path / name).write_bytes(mark.encode() + content.replace(b"\n", b"\r\n"))
    assert [row for _, row in TASK.read(tmp_path / name).rows] == rows


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
@FREE
@given(pairs=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_tables_with_a_column_map(
    name: str, separator: str, mark: str, end: str, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    file = io.StringIO()
    table = [("id", "question", "answer"), *((str(number), *pair) for number, pair in enumerate(pairs))]
    if separator == ",":
        csv.writer(file, lineterminator=end).writerows(table)
    else:
        file.write("".join("\t".join(record) + end for record in table))
    (tmp_path / name).write_bytes((mark + file.getvalue()).encode())
    columns = {"instruction": "question", "output": "answer"}
    task = InstructionsTask(InstructionsSettings(columns=columns))
    results = [conversation_of(*row) for row in task.read(tmp_path / name).rows]
    assert [(result.questions[0], result.answers[0]) for result in results] == pairs


def refusal(tmp_path: Path, rows: list[Any], task: InstructionsTask = TASK) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        task.read(path)
    assert str(caught.value).count("\n") <= 2
    return str(caught.value)


def test_unknown_fields_are_named_with_the_map_that_mends_them(tmp_path: Path) -> None:
    output = refusal(tmp_path, [{"id": 1, "question": "a", "answer": "b"}])
    assert "rows.jsonl: its rows have the fields id, question, answer" in output
    assert "expected: instruction, input, output; messages; conversations; prompt, completion" in output
    assert "task.columns: {instruction: question, output: answer}" in output
    assert "did you mean messages by mesages?" in refusal(tmp_path, [{"mesages": []}])
    assert "(none)" in refusal(tmp_path, [{}])


def test_an_answer_under_another_name_is_noticed(tmp_path: Path) -> None:
    assert "task.columns: {output: response}" in refusal(tmp_path, [{"instruction": "a", "response": "b"}])
    assert "task.columns: {completion: answer}" in refusal(tmp_path, [{"prompt": "a", "answer": "b"}])


def test_mixed_formats_are_refused(tmp_path: Path) -> None:
    output = refusal(tmp_path, [{"prompt": "a", "completion": "b"}, {"x": 1}, {"instruction": "a", "output": "b"}])
    assert "mixes formats: completion (rows.jsonl:1), alpaca (rows.jsonl:3)" in output


def test_a_wrong_column_gets_the_nearest(tmp_path: Path) -> None:
    task = InstructionsTask(InstructionsSettings(columns={"instruction": "qestion", "output": "answer"}))
    assert "nearest to 'qestion' is 'question'" in refusal(tmp_path, [{"question": "a", "answer": "b"}], task)


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        (["instruction", "input", "output"], {}),
        (["Question", "Context", "Answer"], {"instruction": "Question", "input": "Context", "output": "Answer"}),
        (["问题", "答案"], {"instruction": "问题", "output": "答案"}),
        (["instrution", "ouput"], {"instruction": "instrution", "output": "ouput"}),
        (["prompt", "response"], {"completion": "response"}),
        (["text", "label"], {}),
        (["height", "width"], {}),
    ],
)
def test_column_maps_are_suggested(fields: list[str], columns: dict[str, str]) -> None:
    assert suggested_columns(fields) == columns
    assert set(columns) <= set(INSTRUCTION_FIELDS)


ASKED = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "So."}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [SAID]}, "turn 1 is of assistant, not of user"),
        ({"messages": [{"role": "system", "content": "s"}, ASKED, ASKED]}, "turn 3 is of user, not of assistant"),
        ({"messages": [ASKED, SAID, {"role": "system", "content": "s"}]}, "turn 3 is of system, not of user"),
        ({"messages": [ASKED, {"role": "tool", "content": "7"}]}, "turn 2 is of 'tool'"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "turn 2 has no text"),
        ({"messages": [ASKED, {"role": "assistant", "content": " "}]}, "turn 2 has no text"),
        ({"messages": [ASKED, {**SAID, "weight": 0}]}, "turn 2 has a weight of its own"),
        ({"messages": ["Why?"]}, "turn 1 is of None"),
        ({"messages": "Why?"}, "has no list of turns"),
        ({"messages": []}, "has no question"),
        ({"conversations": [{"from": "system", "value": "s"}]}, "has no question"),
        ({"instruction": " ", "output": "b"}, "has an empty instruction"),
        ({"instruction": "a", "output": [5]}, "output is list, not a text"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "has a history"),
        ({"height": 1}, "has the fields height"),
    ],
)
def test_rows_that_cannot_be_used_are_named(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=r"^mine.jsonl:3: ") as caught:
        conversation_of("mine.jsonl:3", row)
    assert message in str(caught.value)


def test_null_is_an_empty_text() -> None:
    assert conversation_of("1", {"instruction": "a", "input": None, "output": "b"}) == Conversation(("a",), ("b",))


def test_a_developer_is_the_system() -> None:
    row = {"messages": [{"role": "developer", "content": "s"}, ASKED, {**SAID, "weight": 1}]}
    assert conversation_of("1", row) == Conversation(("Why?",), ("So.",), "s")


def test_two_system_messages_are_joined() -> None:
    row = {"system": "one", "conversations": [{"from": "system", "value": "two"}, {"from": "human", "value": "a"}]}
    assert conversation_of("1", row) == Conversation(("a",), ("",), "one\n\ntwo")
