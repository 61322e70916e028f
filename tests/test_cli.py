"""The command line: verbs, help, exit statuses, and what goes to which stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import lotune
from lotune.cli.app import app
from lotune.errors import CheckError, ModelError
from lotune.recipe import Recipe, RunOptions
from lotune.settings_help import describe
from lotune.tasks.candidates import Wanted

HEAVY = ("torch", "transformers", "peft", "jieba", "scipy", "numpy", "rich", "tokenizers", "safetensors")
VERBS = ("run", "prepare", "pretrain", "tune", "evaluate")


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="lotune")


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the stages that remembers how it was called."""
    module: Any = ModuleType("lotune.stages")
    module.calls = []

    def stage(name: str) -> Any:
        def work(*arguments: Any) -> dict[str, Any]:
            module.calls.append((name, arguments))
            print("progress")
            return {"done": name, "path": Path("a/b"), "loss": float("nan")}

        return work

    further = ("sample", "init", "evaluate_model")
    for name in (*VERBS, *further):
        setattr(module, name, stage(name))
    module.EvaluationData = lambda data, limit, shots, shots_data: (data, limit, shots, shots_data)
    for place in ("lotune.stages", *(f"lotune.stages.{name}" for name in (*VERBS, *further))):
        monkeypatch.setitem(sys.modules, place, module)
    monkeypatch.setattr(lotune, "stages", module, raising=False)
    return module


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\n")
    return str(path)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_hands_its_recipe_to_its_stage(stages: Any, recipe: str, verb: str) -> None:
    result = call(verb, recipe, "data.generated_rows=12", "--dry-run", "tune.epochs=2")
    assert result.exit_code == 0, result.output
    [(name, (given, options))] = stages.calls
    assert name == verb
    assert (given.name, given.seed, given.data.generated_rows, given.tune.epochs) == ("mine", 3, 12, 2.0)
    assert options == RunOptions(dry_run=True)
    assert result.stdout == "progress\n"


def test_under_json_stdout_holds_json_only(stages: Any, recipe: str) -> None:
    result = call("run", recipe, "--json")
    assert json.loads(result.stdout) == {"done": "run", "path": "a/b", "loss": None}
    assert result.stderr == "progress\n"


def test_evaluate_a_model(stages: Any, tmp_path: Path) -> None:
    words = ["--model", "nano", "--task", "reading", "--data", "x.json", "--limit", "5", "--out", "p.jsonl"]
    assert call("evaluate", *words, "evaluate.max_batch_tokens=64", "--json").exit_code == 0
    [(name, (given, *further))] = stages.calls
    assert (name, given.task.name, given.evaluate.max_batch_tokens) == ("evaluate_model", "reading", 64)
    assert further == [
        "nano",
        stages.EvaluationData(Path("x.json"), 5, 0, None),
        Path("p.jsonl"),
        False,
        RunOptions(json=True),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "no recipe and no --model"),
        (["evaluate", "seed=3"], "no recipe and no --model"),
        (["evaluate", "mine.yaml", "--limit", "3"], "--limit without --model"),
        (["evaluate", "mine.yaml", "--shots", "3"], "--shots without --model"),
        (["evaluate", "--model", "nano"], "--model without --task"),
        (["evaluate", "mine.yaml", "--model", "nano", "--task", "reading"], "a recipe together with --model"),
        (["run", "missing.yaml"], "missing.yaml: cannot be read"),
        (["sample", "--task", "arithmetic", "--out", "x", "--mixture", "fair"], "mixture is 'fair'"),
    ],
)
def test_bad_input(stages: Any, words: list[str], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert not result.stdout
    assert not stages.calls


@pytest.mark.parametrize("words", [["fly"], ["run", "x.yaml", "--fast"], ["run"], ["sample", "--rows", "0"]])
def test_unknown_words(words: list[str]) -> None:
    assert call(*words).exit_code == 2


def test_a_bare_command_prints_the_help() -> None:
    result = call()
    assert result.exit_code == 0
    assert result.stdout == call("--help").stdout
    assert "Commands:" in result.stdout


def test_the_lines_of_the_help_are_whole_at_80_columns() -> None:
    displayed = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--help"], prog_name="lotune").stdout
    lines = displayed.partition("Commands:")[2].strip().splitlines()
    assert len(lines) == len(app.registered_commands) + len(app.registered_groups)
    assert [line for line in lines if "..." in line or not line.endswith(".")] == []


def test_a_word_that_is_not_utf8_is_refused(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lotune", "init", "b\udce4d.csv"])
    result = call("init", "b\udce4d.csv")
    assert result.exit_code == 2
    assert result.stderr.startswith(r"'b\xe4d.csv': is not UTF-8")
    assert not stages.calls


def test_sample_and_init(stages: Any) -> None:
    assert call("sample", "--task", "arithmetic", "--rows", "7", "--mixture", "raw", "--out", "x.jsonl").exit_code == 0
    assert call("init", "rows.csv", "--out", "mine.yaml").exit_code == 0
    (_, (task, *further)), (_, named) = stages.calls
    assert (task.name, task.mixture, task.language) == ("arithmetic", "raw", "zh")
    assert further == [7, 0, Path("x.jsonl"), "rows", False, RunOptions()]
    assert named == (Path("rows.csv"), Path("mine.yaml"), False, RunOptions(), Wanted(), "nano")


def test_init_takes_a_task_columns_and_a_base(stages: Any) -> None:
    words = ("--task", "sentences", "--column", "label=team=A", "--column", "text = mail", "--base", "org/model")
    assert call("init", "rows.csv", *words).exit_code == 0
    _, (*_, wanted, base) = stages.calls[0]
    assert (wanted, base) == (Wanted("sentences", {"label": "team=A", "text": "mail"}), "org/model")
    for wrong in ("label", "label=", "=mail"):
        result = call("init", "rows.csv", "--column", wrong)
        assert result.exit_code == 2
        assert "expected: ROLE=NAME" in result.stderr


@pytest.mark.parametrize(("error", "status"), [(ModelError("m", "is bad", "good"), 2), (CheckError("c", "failed"), 1)])
def test_errors_end_in_their_status(
    stages: Any, recipe: str, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(stages, "tune", fail)
    result = call("tune", recipe)
    assert (result.exit_code, result.stderr) == (status, f"{error}\n")
    assert call("tune", recipe, "--debug").exception is error


def test_an_interrupt_prints_how_to_resume(stages: Any, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "run", stop)
    monkeypatch.setattr(sys, "argv", ["lotune", "run", recipe])
    result = call("run", recipe)
    assert result.exit_code == 130
    assert f"Resume with: lotune run {recipe}" in result.stderr
    monkeypatch.setattr(stages, "evaluate_model", stop)
    words = ["evaluate", "--model", "nano", "--task", "reading"]
    assert call(*words).stderr == "\nInterrupted.\n"
    assert "Resume with: lotune" in call(*words, "--out", "p.jsonl").stderr


def test_the_home_folder_and_the_base_of_an_adapter(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--model=~/m", "--task", "reading", "--data=~/x.json", "--out=~/p.jsonl", "--base", "a: b"]
    assert call("evaluate", *words).exit_code == 0
    [(_, (given, model, test, out, *_))] = stages.calls
    assert (given.base.model, model, test[0], out) == ("a: b", "~/m", Path("/home/me/x.json"), Path("/home/me/p.jsonl"))


def test_version() -> None:
    assert call("--version").stdout == f"lotune {lotune.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_prints_every_setting(verb: str) -> None:
    text = call(verb, "--help").stdout
    assert [line.key for line in describe(Recipe) if line.key not in text] == []


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_help_prints_the_settings_of_answers(verb: str) -> None:
    text = call(verb, "--help").stdout
    assert all(key in text for key in ("task.template", "evaluate.dtype", "adapter.force_base", "threads"))
    assert "tune.epochs" not in text


@pytest.mark.parametrize("words", [["--help"], ["tune", "--help"], ["evaluate", "-h"], ["--version"]])
def test_nothing_heavy_is_imported_for_help(words: list[str]) -> None:
    script = (
        "import sys\nfrom lotune.cli.app import app\n"
        f"try: app({words!r})\n"
        f"except SystemExit: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert completed.stderr == "[]\n"
