"""A model is asked, and tuned on, in the template and in the words that its folder holds, or the difference is told."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from command_line import call

from lotune.data.templates import FILE_NAME, TEMPLATES, load_template, load_wording, save_template
from lotune.errors import ModelError, SettingsError
from lotune.recipe import Recipe
from lotune.stages.tune import template_text
from lotune.stages.wording import check_template, in_its_template
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings

LABELS = {"0": "no", "1": "yes"}


@pytest.mark.parametrize(("trained", "asked", "said"), [
    ({"name": "choice"}, {"name": "choice", "wording": "plain"},
     "was tuned with task.wording='contest', and is asked with task.wording='plain'"),
    ({"name": "sentences", "labels": LABELS}, {"name": "sentences"}, "task.labels={'0': 'no', '1': 'yes'}, and is"),
    ({"name": "sentences", "labels": LABELS}, {"name": "sentences", "labels": dict(reversed(LABELS.items()))},
     "is asked with task.labels={'1': 'yes', '0': 'no'}"),
    ({"name": "custom", "prompt": "{q}"}, {"name": "custom", "prompt": "{q}?"}, "task.prompt='{q}', and is asked with"),
    ({"name": "choice"}, {"name": "choice", "copies": 3}, ""),
    ({"name": "choice"}, {"name": "custom"}, ""),
    ({"name": "arithmetic"}, {"name": "choice"}, ""),
])  # fmt: skip
@pytest.mark.parametrize("force", [True, False])
def test_other_words_than_those_of_the_training_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: dict, asked: dict, said: str, force: bool
) -> None:
    (tmp_path / FILE_NAME).write_text(template_text(Recipe(task=TaskSettings(**trained))))
    settings = TaskSettings(**asked)
    assert in_its_template(settings, str(tmp_path), force).worded == settings.worded
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) is bool(said)


def test_a_file_without_wording_is_read_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_template(tmp_path, TEMPLATES["qa"])
    assert "wording" not in json.loads((tmp_path / FILE_NAME).read_text())
    assert load_wording(tmp_path) == {}
    assert in_its_template(TaskSettings(name="choice"), str(tmp_path), False).template == "qa"
    assert not capsys.readouterr().err
    assert load_wording(tmp_path / "elsewhere") == {}


def test_template_and_wording_come_back(tmp_path: Path) -> None:
    settings = TaskSettings(name="custom", prompt="{a}", template="qa", preamble="Well: ")
    (tmp_path / FILE_NAME).write_text(template_text(Recipe(task=settings)))
    assert load_template(tmp_path) == settings.prompt_template
    assert load_wording(tmp_path) == {"name": "custom", "prompt": "{a}", "labels": {}}
    record = orjson.loads(template_text(Recipe(task=settings)))
    (tmp_path / FILE_NAME).write_bytes(orjson.dumps({**record, "wording": "plain"}))
    with pytest.raises(ModelError, match="is not a template"):
        load_wording(tmp_path)


def test_a_base_of_another_template_is_tuned_where_it_is_forced(tmp_path: Path) -> None:
    save_template(tmp_path, TEMPLATES["qa"])
    with pytest.raises(ModelError, match=r"template 'qa', but 'alpaca'.*\n.*\n.*task.force_template=true"):
        check_template(TaskSettings(), tmp_path)
    check_template(TaskSettings(force_template=True), tmp_path)
    check_template(TaskSettings(template="qa"), tmp_path)
    check_template(TaskSettings(name="reading"), tmp_path)  # has a prompt of its own
    check_template(TaskSettings(), None)
    check_template(TaskSettings(), tmp_path / "a plain base")
    assert (
        in_its_template(TaskSettings(template="alpaca", force_template=True), str(tmp_path), False).template == "alpaca"
    )


@pytest.mark.parametrize("key", ["base.model", "adapter.start"])
def test_prepare_refuses_another_template(tmp_path: Path, key: str) -> None:
    (tmp_path / "trained").mkdir()
    save_template(tmp_path / "trained", TEMPLATES["qa"])
    (tmp_path / "run.yaml").write_text("task: {name: arithmetic}\n")
    words = ("prepare", tmp_path / "run.yaml", f"{key}={tmp_path / 'trained'}", f"runs={tmp_path / 'runs'}")
    refused = call(*words, status=2).stderr
    assert f"{tmp_path / 'trained'}: was trained with the template 'qa', but 'alpaca' was asked for" in refused
    assert "task.force_template=true" in refused
    assert not (tmp_path / "runs" / "run" / "data").exists()
    assert "template 'qa'" not in call(*words, "task.force_template=true", status=2).stderr  # the folder holds no model


@pytest.mark.parametrize(
    ("name", "near"), [("txt", "did you mean text?"), ("choise", "did you mean choice?"), ("text", "")]
)
def test_an_unknown_task_is_told_of_every_name(name: str, near: str) -> None:
    with pytest.raises(SettingsError, match="custom; and text, which `evaluate --model` alone has") as caught:
        build_task(TaskSettings(name=name))
    assert caught.value.remedy == near
