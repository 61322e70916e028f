"""Text from outside that steers a terminal, through every verb: it is printed with marks, and never as it is."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from command_line import RECIPE, app, call, invoke
from typer.testing import CliRunner

from lotune.console import Progress
from lotune.text_display import is_hidden

STEERS = "\x1b[31m\x1b]0;owned\x07\x9b2J\x1bPq\x1b\\\u202e\u200b\x08\r\x7f"
"""CSI, OSC, its C1 form, DCS, a bidirectional override, a zero-width space, backspace, carriage return, delete."""
MARKUP = "[bold]x[/bold] :smile:"
ODD = STEERS + MARKUP
PACKAGE = Path(__file__).parent.parent / "lotune"


def clean(result: Result) -> Result:
    """The result, in whose output nothing is hidden."""
    results = {character for character in result.stdout + result.stderr if is_hidden(character)}
    assert not results, (results, result.stdout, result.stderr)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that steer, in their texts, in the names of their columns and files."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [
        {"instruction": f"{number} {ODD}?", "input": "", "output": f"{number}{ODD}", ODD: ODD} for number in range(40)
    ]
    write_rows(folder / f"rows{STEERS}.jsonl", rows)
    write_rows(folder / "names.jsonl", [{ODD: "a", f"b{ODD}": "c"}])
    (folder / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"a": "' + "\x9b" + "\n")
    (folder / "table.csv").write_text(f"question,answer{ODD}\na,b\n".replace("\r", ""))
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path, small_base: Path) -> Path:
    """A recipe of those rows, whose instruction prefix and run folder steer, too."""
    text = RECIPE.format(base=small_base)
    text = text.replace("task: {scratchpad: false, max_new_tokens: 8}", "task: {name: instructions, max_new_tokens: 4}")
    settings = {"runs": str(folder / f"runs{STEERS}"), "data.train": str(folder / f"rows{STEERS}.jsonl")}
    file = folder / "odd.yaml"
    file.write_text(text.replace("data: {generated_rows: 40,", f"data: {{train: {json.dumps(settings['data.train'])},"))
    with file.open("a") as more:
        more.write(f"runs: {json.dumps(settings['runs'])}\n")
    return file


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """The folder of the run of that recipe."""
    clean(call("run", recipe))
    [result] = recipe.parent.glob("runs*/odd")
    return result


def test_run_and_report(run: Path, recipe: Path) -> None:
    output = clean(call("prepare", recipe)).stderr
    assert "␛[31m" in output
    assert MARKUP in output
    assert "scorecard" in clean(call("evaluate", recipe)).stdout
    assert json.loads(clean(call("evaluate", recipe, "--json")).stdout)["target"]["task"] == "instructions"
    clean(call("report", run))
    clean(call("tune", recipe, "tune.learning_rate=0.02", "--dry-run"))


def test_init(folder: Path) -> None:
    output = clean(call("init", folder / f"rows{STEERS}.jsonl", "--out", folder / f"first{STEERS}.yaml")).stderr
    assert "␛[31m" in output
    assert MARKUP in output


@pytest.mark.parametrize("name", ["names.jsonl", "broken.jsonl", "table.csv", f"none{STEERS}.jsonl"])
def test_faults(folder: Path, recipe: Path, name: str) -> None:
    for words in (
        ["init", folder / name, "--out", folder / "x.yaml"],
        ["prepare", recipe, f"data.train={folder / name}"],
    ):
        clean(invoke(*words))
    clean(call("prepare", recipe, f"data.train={folder / name}", "task.columns={instruction: nothing}", status=2))


def test_settings_and_names(folder: Path, recipe: Path) -> None:
    clean(call("run", recipe, f"ta{ODD}k=1", status=2))
    clean(call("run", folder / f"none{STEERS}.yaml", status=2))
    clean(call("evaluate", "--model", f"none{STEERS}", "--task", "arithmetic", status=2))
    clean(call("sample", "--task", f"none{STEERS}", "--out", folder / "x.jsonl", status=2))
    clean(call("sample", "--task", "arithmetic", "--rows", 3, "--out", folder / f"sample{STEERS}.jsonl"))


def test_evaluate_generate_and_compare_of_a_model(folder: Path, small_base: Path) -> None:
    rows, asked = folder / f"rows{STEERS}.jsonl", ["--model", small_base, "--task", "instructions", "--data"]
    results = [folder / f"{letter}{STEERS}.jsonl" for letter in "ab"]
    for out in results:
        clean(call("evaluate", *asked, rows, "--out", out, "--limit", 3, "task.max_new_tokens=4"))
    clean(call("compare", *results))
    clean(call("generate", *asked, rows, "--out", folder / f"answers{STEERS}.txt", "task.max_new_tokens=4"))
    clean(call("generate", "--model", small_base, "--prompt", ODD, "task.max_new_tokens=40"))
    figures = clean(call("generate", "--model", small_base, "--prompt", ODD, "--json", "task.max_new_tokens=4"))
    assert json.loads(figures.stdout)["prompt"] == ODD
    texts = write_rows(folder / f"texts{STEERS}.jsonl", [{"text": f"An article {ODD}."}] * 3)
    clean(call("evaluate", "--model", small_base, "--task", "text", "--data", texts))


def test_answers_of_a_model(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lotune.stages.chat import LocalAnswerer

    def answer(self: LocalAnswerer, said: object, show: Any) -> str:
        for piece in ODD:
            show(piece)
        return ODD

    monkeypatch.setattr(LocalAnswerer, "answer", answer)
    words = ["chat", "--model", str(small_base)]
    result = clean(CliRunner().invoke(app, words, input=f"Hello.\n/what{STEERS}\n/save /none{STEERS}/x.jsonl\n"))
    assert "␛[31m" in result.stdout
    assert MARKUP in result.stdout


def test_the_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    with Progress(ODD, 2) as bar:
        bar.advance(2, "[red]5")
    displayed = capsys.readouterr().err
    assert "[bold]x[/bold]" in displayed
    assert "[red]5" in displayed
    assert "\x9b" not in displayed
    assert "\x1b]0;" not in displayed


def test_a_traceback_shows_marks(capsys: pytest.CaptureFixture[str]) -> None:
    from lotune.text_display import show_error

    error = ValueError(ODD)
    show_error(ValueError, error, None)
    displayed = capsys.readouterr().err
    assert "ValueError: ␛[31m" in displayed
    assert not any(map(is_hidden, displayed))


def test_everything_is_printed_through_one_function() -> None:
    """A bare `print` is allowed where it prints no text from outside: JSON with escapes, the help, the version."""
    calls = {
        (file.relative_to(PACKAGE).as_posix(), ast.unparse(node.args[0]) if node.args else "")
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert calls == {
        ("text_display.py", "show_control_characters(str(text))"), ("cli/execution.py", "as_json(result)"),
        ("cli/app.py", "context.get_help()"), ("cli/app.py", "f'lotune {__version__}'"),
    }  # fmt: skip
