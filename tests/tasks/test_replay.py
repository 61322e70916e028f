"""Replay rows come from a generator or a file, and hold nothing of an evaluation set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lotune.data.examples import Example
from lotune.errors import DataError
from lotune.tasks.build_datasets import evaluation_rows
from lotune.tasks.reading.task import ReadingSettings, ReadingTask
from lotune.tasks.replay import generated_replay_rows, holds_texts, replay_rows_of_file, without_evaluated

READING = ReadingTask(ReadingSettings(language="both"))


def test_generated_rows_practise_other_names_than_the_retention_rows_have() -> None:
    evaluation = evaluation_rows(READING, None, 30, 1)
    generated = generated_replay_rows(READING, 40, 1)
    replayed, removed = without_evaluated(generated, {"retention": evaluation})
    assert (len(replayed), removed) == (40, 0)
    assert all(example.target for example in replayed)


def passages(examples: list[Example]) -> set[str]:
    return {example.prompt_parts[1] for example in examples if example.prompt_parts}


def test_no_passage_of_an_evaluation_set_is_replayed() -> None:
    rows = [("1", row) for row in READING.generate_training_rows(40, 9)]
    evaluation = list(READING.examples(rows[:10], training=False))
    replayed, removed = without_evaluated(list(READING.examples(rows, training=True)), {"retention": evaluation})
    assert removed
    assert replayed
    assert not passages(list(replayed)) & passages(evaluation)


def test_texts_that_hold_a_passage_a_question_or_an_answer_of_an_evaluation_set_are_removed() -> None:
    passage, question = "The harbour of Port Elia was dug in 1911.", "Who  dug the harbour of Port Elia?"
    answer = "a company of forty Danish engineers"
    asked = Example("1", f"{passage} {question}", "", (answer, "Danes"), prompt_parts=("", passage, f" {question}"))
    texts = ["Nothing of it.", f"Once: {passage} Yes.", f"It was {answer}.", "Danes are fine."]
    rows = [Example(str(number), "", text) for number, text in enumerate(texts)]
    remaining, removed = without_evaluated(rows, {"retention": [asked]})
    assert [row.target for row in remaining] == [texts[0], texts[3]]
    assert removed == 2


def test_a_file_of_texts_is_replayed_in_short_pieces(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"text {number} " + "word " * 200}) + "\n" for number in range(9)))
    assert holds_texts(file)
    rows = replay_rows_of_file(None, file, 5, 1)
    assert len(rows) == 5
    assert all(row.prompt == "" and row.target.startswith("text") and len(row.target) <= 400 for row in rows)
    assert [row.id for row in rows] == [row.id for row in replay_rows_of_file(None, file, 5, 1)]


def test_a_file_of_rows_is_replayed_as_its_task_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    READING.write(file, READING.generate_rows(6, 1))
    assert not holds_texts(file)
    assert len(replay_rows_of_file(READING, file, 4, 1)) == 4
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="no rows to replay"):
        replay_rows_of_file(None, tmp_path / "empty.txt", 4, 1)
