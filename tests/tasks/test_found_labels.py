"""Labels that a recipe does not list are those of its training rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lotune.errors import DataError
from lotune.tasks.custom import CustomSettings
from lotune.tasks.found_labels import with_found_labels
from lotune.tasks.registry import build_task
from lotune.tasks.sentence_classification import SentencesSettings
from lotune.tasks.settings import TaskSettings

COLUMNS = {"sentence": "text", "label": "team"}


def write(folder: Path, labels: list[Any]) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"text": f"Letter {number}.", "team": label} for number, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(settings: TaskSettings, path: Path | None) -> Any:
    return with_found_labels(settings, path, 10_000)


def test_words_of_the_file_are_labels(tmp_path: Path) -> None:
    path = write(tmp_path, [*["red", "blue"] * 600, "yes", " red ", None])
    settings = found(SentencesSettings(columns=COLUMNS), path)
    assert list(settings.labels.items()) == [("blue", "blue"), ("red", "red"), ("yes", "yes")]
    task = build_task(settings)
    examples = list(task.examples(task.read(path).rows[:-1], training=True))
    assert {example.target for example in examples} == {"blue", "red", "yes"}
    custom = found(CustomSettings(prompt="{text}", answer_column="team", scorer="label"), path)
    assert custom.labels == settings.labels


@pytest.mark.parametrize("labels", [["0", "1"] * 9, [0, 1] * 9, [None] * 5])
def test_zero_and_one_need_no_list(labels: list[Any], tmp_path: Path) -> None:
    settings = SentencesSettings(columns=COLUMNS)
    assert found(settings, write(tmp_path, labels)) is settings


def test_what_the_recipe_lists_is_meant(tmp_path: Path) -> None:
    path = write(tmp_path, ["red", "blue"] * 5)
    for settings in (SentencesSettings(columns=COLUMNS, labels={"red": "a", "blue": "b"}), CustomSettings()):
        assert found(settings, path) is settings
    assert found(SentencesSettings(columns=COLUMNS), None).labels == {}


def test_texts_are_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path, [f"An answer, number {number}." for number in range(80)])
    with pytest.raises(DataError, match="80 different labels") as caught:
        found(SentencesSettings(columns=COLUMNS), path)
    assert "task.labels" in caught.value.remedy
