"""`lotune report`: from a run folder alone, without torch; what is not finished is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lotune.cli.app import app
from lotune.files import read_json, write_json
from lotune.recipe import Recipe
from lotune.stages.report import changed_settings


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run in another place."""
    return Path(shutil.copytree(finished_run, tmp_path / "elsewhere"))


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)], prog_name="lotune")


def test_both_files_are_written_and_named(folder: Path) -> None:
    result = call(folder)
    assert result.exit_code == 0, result.stderr
    assert str(folder / "report.html") in result.stderr
    assert not result.stdout
    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    command = f"lotune run {folder}/recipe.yaml 'name=run \"one\" <b>&-again'"
    assert command in text
    assert "lotune run" in page
    assert "<script" not in page


def test_the_same_folder_gives_the_same_files(folder: Path) -> None:
    call(folder)
    before = [(folder / name).read_bytes() for name in ("report.html", "report.md")]
    call(folder)
    assert [(folder / name).read_bytes() for name in ("report.html", "report.md")] == before


def test_json_and_a_recipe_that_names_the_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    result = call(tmp_path / "mine.yaml", f"runs={tmp_path}", "name=elsewhere", "--json")
    assert result.exit_code == 0, result.stderr
    files = {"html": str(folder / "report.html"), "markdown": str(folder / "report.md")}
    assert json.loads(result.stdout) == {**files, "valid": True}


def test_torch_is_not_imported(folder: Path) -> None:
    script = (
        "import sys\nfrom lotune.cli.app import app\n"
        f"try: app(['report', {str(folder)!r}])\n"
        "except SystemExit as end: print(end.code, [name for name in ('torch', 'transformers', 'peft', 'scipy') "
        "if name in sys.modules])"
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert completed.stdout == "0 []\n", completed.stderr
    assert (folder / "report.html").exists()


def lose_the_card(folder: Path) -> None:
    (folder / "scorecard.json").unlink()


def lose_the_counts(folder: Path) -> None:
    (folder / "data" / "counts.json").unlink()


def undo_a_stage(folder: Path) -> None:
    stages = read_json(folder / "stages.json")
    del stages["evaluate"]
    write_json(folder / "stages.json", stages)


def change_the_recipe(folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.02", "learning_rate: 0.03"))


def damage_an_answer(folder: Path) -> None:
    path = folder / "predictions" / "arithmetic" / "step-000075.jsonl"
    path.write_text("{\n" + path.read_text())


def damage_the_metrics(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("nonsense\n")


def damage_the_card(folder: Path) -> None:
    (folder / "scorecard.json").write_text('{"target": 1}')


def empty_it(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


FAULTS = [
    (lose_the_card, "is not finished: scorecard.json missing", "lotune run .*recipe.yaml"),
    (lose_the_counts, "is not finished: data/counts.json missing", "lotune run .*recipe.yaml"),
    (undo_a_stage, "is not finished: evaluate not done", "lotune run .*recipe.yaml"),
    (change_the_recipe, "was tested with other settings: tune.learning_rate: 0.02 -> 0.03", "lotune run "),
    (damage_an_answer, "step-000075.jsonl:1: is not a prediction", "delete the line"),
    (damage_the_metrics, "metrics.jsonl:1: is not a training record", "delete the line"),
    (damage_the_card, "scorecard.json: is not a scorecard", "run evaluate again"),
    (empty_it, "holds no run: recipe.yaml is missing", "lotune run .*recipe.yaml"),
]


@pytest.mark.parametrize(("damage", "message", "remedy"), FAULTS)
def test_unfinished_and_damaged_runs_are_refused(
    folder: Path, damage: Callable[[Path], None], message: str, remedy: str
) -> None:
    damage(folder)
    result = call(folder)
    assert result.exit_code == 2
    assert message in result.stderr
    assert re.search(f"remedy: {remedy}", result.stderr)
    assert len(result.stderr.splitlines()) <= 3
    assert not (folder / "report.html").exists()
    assert not (folder / "report.md").exists()


def test_a_damaged_folder_keeps_its_report(folder: Path) -> None:
    call(folder)
    before = (folder / "report.html").read_bytes()
    damage_an_answer(folder)
    assert call(folder).exit_code == 2
    assert (folder / "report.html").read_bytes() == before


def test_bad_words(folder: Path, tmp_path: Path) -> None:
    result = call(folder, "seed=4")
    assert (result.exit_code, "settings with a run folder: seed=4" in result.stderr) == (2, True)
    result = call(tmp_path / "missing")
    assert (result.exit_code, "missing: cannot be read" in result.stderr) == (2, True)
    (tmp_path / "new.yaml").write_text("seed: 1\n")
    result = call(tmp_path / "new.yaml", f"runs={tmp_path}")
    assert result.exit_code == 2
    assert f"remedy: lotune run {tmp_path}/new.yaml runs={tmp_path}" in result.stderr


def test_a_setting_that_a_newer_version_adds_is_no_change(folder: Path) -> None:
    stages = read_json(folder / "stages.json")
    del stages["evaluate"]["inputs"]["tune.max_grad_norm"]
    write_json(folder / "stages.json", stages)
    assert call(folder).exit_code == 0


def test_the_settings_that_differ() -> None:
    recipe = Recipe.model_validate({"tune": {"steps": 7}, "adapter": {"target_modules": "all-linear"}})
    results = changed_settings(recipe)
    assert [(result.key, result.value) for result in results] == [
        ("adapter.target_modules", '"all-linear"'),
        ("tune.steps", "7"),
    ]
    assert results[0].default == '["q_proj","v_proj"]'
    assert all(result.sentence for result in results)
