"""The recipes that are part of the package: found by name, listed, copied, and there in a wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call

from lotune.errors import SettingsError
from lotune.recipe import read_recipe
from lotune.recipes.shipped import FOLDER, recipe_names
from lotune.settings import join_names

ROOT = Path(__file__).parent.parent
NAMES = join_names(recipe_names())
SMALL = (
    *("data.generated_rows=20", "data.validation_rows=4", "data.test_rows=4", "retention.rows=4"),
    *("retention.replay.rows=4", "task.scratchpad=false", "tune.micro_batch_rows=2", "base.dtype=float32"),
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    recipe = read_recipe(Path(name), ["seed=7"])
    assert (recipe.name, recipe.seed) == (name, 7)
    assert recipe == read_recipe(FOLDER / f"{name}.yaml", ["seed=7"])


def test_a_file_comes_before_a_recipe_of_its_name_and_a_folder_does_not() -> None:
    Path("demo").mkdir()
    assert read_recipe(Path("demo")).tune.learning_rate == 6e-3
    Path("demo").rmdir()
    Path("demo").write_text("seed: 5\n")
    assert (read_recipe(Path("demo")).seed, read_recipe(Path("demo")).data.generated_rows) == (5, 20_000)


@pytest.mark.parametrize("name", ["dmeo", "demo.yaml", "recipes/demo", "../demo", "Demo"])
def test_what_is_neither_a_file_nor_a_name_is_answered_with_the_names(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_recipe(Path(name))
    assert str(caught.value).splitlines() == [
        f"{name}: cannot be read: No such file or directory",
        f"expected: a YAML file, or a recipe of lotune: {NAMES}",
        "remedy: check the path; `lotune run --list` describes the recipes of lotune",
    ]
    assert NAMES in call("tune", name, status=2).stderr
    assert not list(Path.cwd().iterdir())


def test_the_list_says_what_each_recipe_does_and_how_long_it_takes_or_that_it_needs_a_gpu() -> None:
    lines = call("run", "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(("minutes" in line or line.endswith("needs a GPU.")) and len(line) <= 140 for line in lines)
    purposes = json.loads(call("run", "--list", "--json").stdout)
    width = max(map(len, purposes))
    assert [f"{name:<{width}}  {purpose}" for name, purpose in purposes.items()] == lines


def test_a_run_needs_a_recipe() -> None:
    assert "`lotune run --list`" in call("run", status=2).stderr


def test_a_copy_is_the_recipe_and_overwrites_nothing() -> None:
    assert "lotune run demo.yaml" in call("init", "--from", "demo").stderr
    assert read_recipe(Path("demo.yaml")) == read_recipe(Path("demo"))
    Path("demo.yaml").write_text("seed: 5\n")
    assert "demo.yaml: already exists" in call("init", "--from", "demo", status=2).stderr
    assert Path("demo.yaml").read_text() == "seed: 5\n"
    result = call("init", "--from", "nano", "--out", "a folder/mine.yaml", "--json")
    assert json.loads(result.stdout) == {"recipe": "a folder/mine.yaml"}
    assert read_recipe(Path("a folder/mine.yaml")).pretrain == read_recipe(Path("nano")).pretrain
    call("init", "--from", "demo", "--force")
    assert read_recipe(Path("demo.yaml")).seed == 1


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--from", "mine"], f"'mine' is not a recipe of lotune\nexpected: {NAMES}"),
        (["--from", "../recipes/demo"], "is not a recipe of lotune"),
        (["rows.jsonl", "--from", "demo"], "init: rows and --from"),
        ([], "init: no rows"),
    ],
)
def test_copies_that_are_refused(words: list[str], fault: str) -> None:
    assert fault in call("init", *words, status=2).stderr


def test_an_installed_wheel_has_the_recipes(empty_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lotune", source / "lotune", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quiet = {"cwd": source, "capture_output": True, "text": True, "check": True}
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."], **quiet)
    [wheel] = source.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel], **quiet)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def lotune(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lotune", *words]
        return subprocess.run(command, cwd=empty_folder, env=environment, capture_output=True, text=True, check=True)

    assert [line.split()[0] for line in lotune("run", "--list").stdout.splitlines()] == recipe_names()
    assert "estimate: " in lotune("run", "demo", *SMALL, "--dry-run").stderr
    assert not (empty_folder / "lotune").exists()
