"""A recipe keeps what its author wrote, whatever the form changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.recipe import read_recipe
from lotune.studio.errors import CallError
from lotune.studio.recipe_forms import change_recipe, check_startable, copy_recipe, read_form, replace_task
from lotune.studio.workspace import Workspace
from lotune.tasks.registry import task_settings

TEXT = """\
# Mine, with reasons.
seed: 7  # the lucky one

task:
  name: sentences
  # words that people use
  labels: {neg: 'bad', pos: "good"}
  columns: {sentence: review, label: mood}
data:
  train: mood.csv   # from the shop
tune:
  epochs: 3
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "mine.yaml").write_text(TEXT)
    (tmp_path / "mood.csv").write_text("review,mood\na,pos\n")
    return Workspace.at(tmp_path)


def text_of(workspace: Workspace, name: str = "mine.yaml") -> str:
    return (workspace.folder / name).read_text()


def test_a_form_has_what_is_given_and_what_holds(workspace: Workspace) -> None:
    form = read_form(workspace, "mine.yaml")
    assert form["given"]["task.labels.neg"] == "bad"
    assert (form["values"]["tune.epochs"], form["values"]["adapter.method"]) == (3, "lora")
    assert (form["run"], form["rows"], form["command"]) == ("mine", "mood.csv", "lotune run mine.yaml")
    assert form["faults"] == {}
    assert form["outside"] == []


def test_a_change_touches_its_own_line_alone(workspace: Workspace) -> None:
    change_recipe(workspace, "mine.yaml", {"tune.epochs": "5"})
    assert text_of(workspace) == TEXT.replace("epochs: 3", "epochs: 5")
    change_recipe(workspace, "mine.yaml", {"tune.epochs": None})
    assert "tune" not in yaml.safe_load(text_of(workspace))
    assert "# words that people use" in text_of(workspace)
    change_recipe(workspace, "mine.yaml", {"adapter.rank": "4", "task.labels": {"neg": "awful", "pos": "good"}})
    recipe = read_recipe(workspace.folder / "mine.yaml")
    assert recipe.adapter.rank == 4  # type: ignore[union-attr]
    assert recipe.task.prompt_settings["labels"] == {"neg": "awful", "pos": "good"}
    assert "# the lucky one" in text_of(workspace)


CHANGES = st.dictionaries(
    st.sampled_from(["tune.epochs", "adapter.rank", "seed", "retention.rows", "data.max_length", "tune.weight_decay"]),
    st.sampled_from(["9", "12", None]), min_size=1,
)  # fmt: skip


@given(CHANGES)
def test_the_file_says_what_overrides_on_the_command_line_would(changes: dict[str, Any]) -> None:
    """The oracle is `read_recipe` with the same changes as overrides."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.yaml"
        path.write_text(TEXT)
        kept = {key: value for key, value in changes.items() if value is not None}
        change_recipe(Workspace.at(Path(folder)), "mine.yaml", kept)
        expected = Path(folder) / "expected.yaml"
        expected.write_text(TEXT)
        overridden = read_recipe(expected, [f"{key}={value}" for key, value in kept.items()])
        assert read_recipe(path).model_copy(update={"name": ""}) == overridden.model_copy(update={"name": ""})


def test_a_change_at_fault_is_refused_by_its_key_and_nothing_is_written(workspace: Workspace) -> None:
    with pytest.raises(SettingsError) as caught:
        change_recipe(workspace, "mine.yaml", {"adapter.rank": "many", "tune.epochs": "4"})
    assert list(caught.value.faults) == ["adapter.rank"]
    assert text_of(workspace) == TEXT


def test_a_recipe_at_fault_can_be_mended_one_setting_at_a_time(workspace: Workspace) -> None:
    (workspace.folder / "bad.yaml").write_text("tune: {epochs: no, learning_rate: fast}\nlora: 3\n")
    form = read_form(workspace, "bad.yaml")
    assert set(form["faults"]) == {"tune.epochs", "tune.learning_rate", "lora"}
    assert set(change_recipe(workspace, "bad.yaml", {"tune.epochs": "2"})["faults"]) == {"tune.learning_rate", "lora"}
    assert change_recipe(workspace, "bad.yaml", {"tune.learning_rate": "1e-3", "lora": None})["faults"] == {}


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "seed: 1\nseed: 2\n"])
def test_a_file_that_is_no_recipe_is_refused_in_the_words_of_the_terminal(workspace: Workspace, text: str) -> None:
    (workspace.folder / "odd.yaml").write_text(text)
    with pytest.raises(SettingsError):
        read_form(workspace, "odd.yaml")
    with pytest.raises(SettingsError):
        change_recipe(workspace, "odd.yaml", {"seed": "1"})
    assert text_of(workspace, "odd.yaml") == text


def test_an_empty_recipe_can_be_filled(workspace: Workspace) -> None:
    (workspace.folder / "empty.yaml").write_text("# nothing yet\n")
    assert change_recipe(workspace, "empty.yaml", {"seed": "1"})["given"] == {"seed": 1}
    assert "nothing yet" in text_of(workspace, "empty.yaml")


def test_another_task_replaces_the_settings_of_the_old_one(workspace: Workspace) -> None:
    form = replace_task(workspace, "mine.yaml", task_settings("instructions", columns={"output": "mood"}), True)
    assert form["given"]["task.name"] == "instructions"
    assert "task.labels.neg" not in form["given"]
    assert form["given"]["data.on_error"] == "skip"
    assert "# the lucky one" in text_of(workspace)


def test_a_copy_has_the_comments_and_no_name(workspace: Workspace) -> None:
    (workspace.folder / "mine.yaml").write_text("name: mine\n" + TEXT)
    (workspace.runs / "mine").mkdir(parents=True)
    form = copy_recipe(workspace, "mine")
    assert (form["file"], form["run"]) == ("mine-2.yaml", "mine-2")
    assert "# from the shop" in text_of(workspace, "mine-2.yaml")
    (workspace.runs / "other").mkdir()
    (workspace.runs / "other" / "recipe.yaml").write_text("name: other\nseed: 1\n")
    assert copy_recipe(workspace, "other")["given"] == {"seed": 1}
    with pytest.raises(CallError):
        copy_recipe(workspace, "none")


@pytest.mark.parametrize("line", [
    "data: {train: ../elsewhere.csv}", "data: {train: /etc/passwd}", "base: {model: ../model}",
    "data: {test: link.csv}", "retention: {data: ../q.json}",
])  # fmt: skip
def test_files_outside_are_asked_about_first(workspace: Workspace, line: str) -> None:
    (workspace.folder / "link.csv").symlink_to("/etc/passwd")
    (workspace.folder / "leading.yaml").write_text(line + "\n")
    with pytest.raises(CallError) as caught:
        check_startable(workspace, "leading.yaml", allow_outside=False)
    assert caught.value.code == "outside"
    assert caught.value.details["outside"] == read_form(workspace, "leading.yaml")["outside"] != []
    assert check_startable(workspace, "leading.yaml", allow_outside=True) == "leading"


def test_runs_stay_in_the_folder(workspace: Workspace) -> None:
    for line in ("runs: /tmp/runs", "runs: ../runs"):
        (workspace.folder / "far.yaml").write_text(line + "\n")
        with pytest.raises(CallError, match="runs"):
            check_startable(workspace, "far.yaml", allow_outside=True)
    assert check_startable(workspace, "mine.yaml", allow_outside=False) == "mine"
