"""A question of a person becomes the prompt that a row of the file would."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lotune.errors import DataError
from lotune.studio.errors import CallError
from lotune.studio.questions import fields_of, prompt_of
from lotune.studio.workspace import Workspace
from lotune.tasks.question_fields import question_fields, question_row
from lotune.tasks.registry import TASKS, build_task, task_settings

LABELS = {"neg": "bad", "pos": "good"}
PAIR = {"first": "a", "second": "b"}
TASKS_ASKED = [
    ({"name": "sentences", "labels": LABELS}, {"sentence": "So warm"}),
    ({"name": "sentences", "labels": LABELS, "columns": PAIR}, {"first": "A.", "second": "B."}),
    ({"name": "instructions"}, {"instruction": "Say it", "input": "hello"}),
    ({"name": "arithmetic"}, {"problem": "计算 1 + 1 等于多少？"}),
    ({"name": "reading"}, {"context": "Anna is at home.", "question": "Who is at home?"}),
    ({"name": "choice"}, {"question": "Which?", "A": "one", "B": "two", "C": "three", "D": "four"}),
    ({"name": "custom", "prompt": "{text}: {about}?"}, {"text": "The sky", "about": "colour"}),
]  # fmt: skip


@pytest.mark.parametrize(("task", "values"), TASKS_ASKED, ids=lambda value: str(value.get("name", "")))
def test_the_prompt_is_that_of_a_row(tmp_path: Path, task: dict[str, object], values: dict[str, str]) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"task": task}))
    workspace = Workspace.at(tmp_path)
    assert fields_of(workspace, "mine") == list(values)
    name = str(task["name"])
    settings = task_settings(name, **{key: value for key, value in task.items() if key != "name"})
    row = question_row(settings, values)
    [example] = build_task(settings).examples([("1", row)], training=False)
    asked = prompt_of(workspace, "mine", values)
    assert asked["prompt"] == example.prompt
    assert all(value in asked["prompt"] for value in values.values())
    assert asked["max_tokens"] == settings.max_new_tokens


def test_every_task_has_fields_or_is_asked_in_conversations() -> None:
    without = [name for name in TASKS if not question_fields(task_settings(name))]
    assert without == ["copying", "equations", "text", "text_continuation"]  # rows that measure a base, not questions


def test_an_empty_question_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"task": {"name": "sentences", "labels": LABELS}}))
    with pytest.raises(DataError):
        prompt_of(Workspace.at(tmp_path), "mine", {})
    (folder / "recipe.yaml").write_text("task: {name: text}\n")
    with pytest.raises(CallError, match="conversations"):
        prompt_of(Workspace.at(tmp_path), "mine", {})
