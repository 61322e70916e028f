"""A model is asked, and tuned on, in the template and in the words that its folder holds, or the difference is told."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from command_line import call, save_template

from lotune.data.templates import TEMPLATE_FILE, TEMPLATES, load_task_prompt_settings, load_template
from lotune.errors import ModelError, SettingsError
from lotune.recipe import Recipe
from lotune.stages.merging import template_text
from lotune.stages.prompt_template import check_template, with_stored_template
from lotune.tasks.arithmetic.task import ArithmeticSettings
from lotune.tasks.custom import CustomSettings
from lotune.tasks.multiple_choice import ChoiceSettings
from lotune.tasks.reading.task import ReadingSettings
from lotune.tasks.registry import TASKS, build_task, task_settings

LABELS = {"0": "no", "1": "yes"}


@pytest.mark.parametrize(("trained", "asked", "message"), [
    ({"name": "choice"}, {"name": "choice", "instruction_style": "plain"},
     "was tuned with task.instruction_style='contest', now prompted with task.instruction_style='plain'"),
    ({"name": "sentences", "labels": LABELS}, {"name": "sentences"}, "task.labels={'0': 'no', '1': 'yes'}, now"),
    ({"name": "sentences", "labels": LABELS}, {"name": "sentences", "labels": dict(reversed(LABELS.items()))},
     "prompted with task.labels={'1': 'yes', '0': 'no'}"),
    ({"name": "custom", "prompt": "{q}"}, {"name": "custom", "prompt": "{q}?"}, "task.prompt='{q}', now prompted with"),
    ({"name": "choice"}, {"name": "choice", "augmented_copies": 3}, ""),
    ({"name": "choice"}, {"name": "custom"}, ""),
    ({"name": "arithmetic"}, {"name": "choice"}, ""),
])  # fmt: skip
@pytest.mark.parametrize("force", [True, False])
def test_prompt_settings_that_differ_from_the_training_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: dict, asked: dict, message: str, force: bool
) -> None:
    (tmp_path / TEMPLATE_FILE).write_text(template_text(Recipe(task=task_settings(**trained))))
    settings = task_settings(**asked)
    assert with_stored_template(settings, str(tmp_path), force).prompt_settings == settings.prompt_settings
    messages = capsys.readouterr().err
    assert message in messages
    assert bool(messages) is bool(message)


def test_a_file_without_wording_is_read_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_template(tmp_path, TEMPLATES["qa"])
    assert "wording" not in json.loads((tmp_path / TEMPLATE_FILE).read_text())
    assert load_task_prompt_settings(tmp_path) == {}
    assert with_stored_template(ChoiceSettings(), str(tmp_path), False).template == "qa"
    assert not capsys.readouterr().err
    assert load_task_prompt_settings(tmp_path / "elsewhere") == {}


def test_template_and_wording_come_back(tmp_path: Path) -> None:
    settings = CustomSettings(prompt="{a}", template="qa", instruction_prefix="Well: ")
    (tmp_path / TEMPLATE_FILE).write_text(template_text(Recipe(task=settings)))
    assert load_template(tmp_path) == settings.prompt_template
    assert load_task_prompt_settings(tmp_path) == {"name": "custom", "prompt": "{a}", "labels": {}}
    record = orjson.loads(template_text(Recipe(task=settings)))
    (tmp_path / TEMPLATE_FILE).write_bytes(orjson.dumps({**record, "wording": "plain"}))
    with pytest.raises(ModelError, match="is not a template"):
        load_task_prompt_settings(tmp_path)


def test_a_base_of_another_template_is_tuned_only_with_force(tmp_path: Path) -> None:
    save_template(tmp_path, TEMPLATES["qa"])
    with pytest.raises(ModelError, match=r"template 'qa', but 'alpaca'.*\n.*\n.*task.force_template=true"):
        check_template(ArithmeticSettings(), tmp_path)
    check_template(ArithmeticSettings(force_template=True), tmp_path)
    check_template(ArithmeticSettings(template="qa"), tmp_path)
    check_template(ReadingSettings(), tmp_path)  # has a prompt of its own
    check_template(ArithmeticSettings(), None)
    check_template(ArithmeticSettings(), tmp_path / "a plain base")
    forced = ArithmeticSettings(template="alpaca", force_template=True)
    assert with_stored_template(forced, str(tmp_path), False).template == "alpaca"


@pytest.mark.parametrize("key", ["base.model", "adapter.init_from"])
def test_prepare_refuses_another_template(tmp_path: Path, key: str) -> None:
    (tmp_path / "trained").mkdir()
    save_template(tmp_path / "trained", TEMPLATES["qa"])
    (tmp_path / "run.yaml").write_text("task: {name: arithmetic}\n")
    words = ("prepare", tmp_path / "run.yaml", f"{key}={tmp_path / 'trained'}", f"runs={tmp_path / 'runs'}")
    refused = call(*words, status=2).stderr
    assert f"{tmp_path / 'trained'}: was trained with the template 'qa', but 'alpaca' was requested" in refused
    assert "task.force_template=true" in refused
    assert not (tmp_path / "runs" / "run" / "data").exists()
    forced = call(*words, "task.force_template=true", status=2).stderr  # the folder holds no model
    assert "was trained with the template" not in forced


@pytest.mark.parametrize(("name", "near"), [("txt", "did you mean text?"), ("choise", "did you mean choice?")])
def test_an_unknown_task_lists_every_name(name: str, near: str) -> None:
    with pytest.raises(SettingsError, match=f"one of {', '.join(TASKS)}") as caught:
        build_task(task_settings(name))
    assert caught.value.remedy == near
