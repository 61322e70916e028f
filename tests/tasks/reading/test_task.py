"""The reading task: the contest's protocol."""

import json
from pathlib import Path

import pytest

from lotune.data.rows import write_jsonl
from lotune.errors import DataError
from lotune.tasks.reading.squad import read_items, write_items
from lotune.tasks.reading.task import METRICS, ReadingSettings, ReadingTask
from lotune.tasks.task import Score

ROW = {
    "title": "T",
    "context": "Denver Broncos won. {x}",
    "qas": [
        {"id": "q1", "question": "Who won?", "answers": [{"text": "Denver Broncos"}, {"text": "Broncos"}]},
        {"id": "q2", "question": "Who, again?", "answers": [{"text": "Broncos"}]},
    ],
}


def test_the_first_question_and_the_prompt() -> None:
    task = ReadingTask()
    (example,) = task.examples([("row", ROW)], training=False)
    assert example.prompt == (
        "Read the passage and answer the question below.\n\n### Instruction:\nDenver Broncos won. {x}\n\n"
        "### Input:\nWho won?\n\n### Response:"
    )
    assert "".join(example.prompt_parts or ()) == example.prompt
    assert example.prompt_parts is not None
    assert example.prompt_parts[1] == ROW["context"]
    assert (example.id, example.target, example.references) == ("q1", "Denver Broncos", ("Denver Broncos", "Broncos"))
    assert (task.max_new_tokens, task.min_new_tokens, task.stop) == (20, 1, ())


def test_training_takes_every_question_and_a_test_those_that_the_settings_want() -> None:
    assert [example.id for example in ReadingTask().examples([("row", ROW)], training=True)] == ["q1", "q2"]
    every = ReadingTask(ReadingSettings(questions_per_passage="all"))
    assert [example.id for example in every.examples([("row", ROW)], training=False)] == ["q1", "q2"]


@pytest.mark.parametrize("answers", [{}, {"answers": []}])
def test_questions_without_references_are_answered_but_not_scored(tmp_path: Path, answers: dict) -> None:
    questions = [{"id": f"q{n}", "question": f"Which {n}?", **answers} for n in range(2)]
    row = {"title": "T", "context": "Denver Broncos won.", "qas": questions}
    (tmp_path / "test.json").write_text(json.dumps({"data": [{"title": "T", "paragraphs": [row]}]}))
    write_jsonl(tmp_path / "test.jsonl", [row])
    task = ReadingTask(ReadingSettings(questions_per_passage="all"))
    for name in ("test.json", "test.jsonl"):
        result = task.read(tmp_path / name).rows
        examples = list(task.examples(result, training=False))
        assert [(example.id, example.target, example.references) for example in examples] == [
            ("q0", "", ()),
            ("q1", "", ()),
        ]
        assert examples[1].prompt.endswith("### Input:\nWhich 1?\n\n### Response:")
        assert task.judge(examples[0], "Denver\nBroncos") == Score("Denver", "", None)
        with pytest.raises(DataError, match="no answer to train on for q0, q1"):
            list(task.examples(result, training=True))


def test_verdicts_and_means() -> None:
    task = ReadingTask()
    (example,) = task.examples([("row", ROW)], training=False)
    first, second = task.judge(example, "\n Denver Broncos\nbecause"), task.judge(example, "The Broncos")
    assert (first.extracted, first.reference, first.correct) == ("Denver Broncos", "Denver Broncos", True)
    assert second.scores == pytest.approx({
        "contest_f1": 200 / 3, "contest_em": 0.0, "squad_f1": 100.0, "squad_em": 100.0, "cmrc_f1": 200 / 3,
        "cmrc_em": 0.0,
    })  # fmt: skip
    assert task.metrics([first, second]) == pytest.approx({
        "contest_f1": 250 / 3, "contest_em": 50.0, "squad_f1": 100.0, "squad_em": 100.0, "cmrc_f1": 250 / 3,
        "cmrc_em": 50.0,
    })  # fmt: skip


def test_the_target_is_right() -> None:
    task = ReadingTask()
    for example in task.examples([("row", ROW)], training=True):
        assert task.judge(example, example.target).scores == dict.fromkeys(METRICS, 100.0)


@pytest.mark.parametrize("row", [{}, {"context": "c", "qas": []}, {"context": "c", "qas": [{"id": "x"}]}])
def test_other_rows_are_refused(row: dict) -> None:
    with pytest.raises(DataError, match="rows:7"):
        list(ReadingTask().examples([("rows:7", row)], training=False))


def test_generated_paragraphs_are_in_squads_layout(tmp_path: Path) -> None:
    task = ReadingTask(ReadingSettings(language="both"))
    rows = list(task.generate_rows(12, 5))
    assert rows == list(task.generate_rows(12, 5))
    write_items(tmp_path / "rows.json", rows)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    read = task.read(tmp_path / "rows.json").rows
    assert [row["context"] for _, row in read] == [row["context"] for row in rows]
    for example in task.examples(read, training=True):
        assert example.target in example.prompt
        assert task.judge(example, example.target).correct
    assert [row for _, row in task.read(tmp_path / "rows.jsonl").rows] == [row for _, row in read]


def test_settings_may_allow_longer_answers() -> None:
    assert ReadingTask(ReadingSettings(max_new_tokens=40)).max_new_tokens == 40


def test_the_protocol_has_2067_items(reference_data: Path) -> None:
    items = read_items(reference_data / "squad" / "dev-v1.1.json")
    examples = list(ReadingTask().examples(items, training=False))
    assert len(examples) == len({example.id for example in examples}) == 2067
