"""What an evaluation writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE as SMALL
from command_line import call
from typer.testing import CliRunner

from lotune.cli.app import app
from lotune.stages.evaluate import _notes

RECIPE = """
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}
task: {{name: reading, language: en}}
data: {{generated_rows: 16, validation_rows: 2, test_rows: 3}}
tune: {{epochs: 1, micro_batch_rows: 8}}
checkpoints: {{count: 1, merged: none}}
retention: {{rows: 5, replay: {{rows: 0}}, language: zh, validation_rows: 0}}
"""


@pytest.mark.slow
def test_a_task_that_is_tuned_and_retained_keeps_both_sets_of_answers(small_base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "twice.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    result = CliRunner().invoke(app, ["run", str(recipe), f"runs={tmp_path / 'runs'}"], prog_name="lotune")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "runs" / "twice"
    written = {path.parent.name: path.read_text().splitlines() for path in folder.glob("predictions/*/base.jsonl")}
    assert {name: len(lines) for name, lines in written.items()} == {"reading": 3, "retention": 5}
    assert {json.loads(line)["id"] for line in written["reading"]}.isdisjoint(
        json.loads(line)["id"] for line in written["retention"]
    )
    card = json.loads((folder / "scorecard.json").read_text())
    assert "answered on cpu in float32" in card["notes"]
    assert len(card["retention"]) == 6
    for line in card["retention"]:
        for name in ("base", "tuned"):
            interval = line[f"{name}_interval"]  # null where no row scores
            assert interval is None or interval[0] <= line[name] <= interval[1]
    for point in card["checkpoints"]:
        for name in ("validation_", ""):
            interval = point[f"{name}interval"]
            assert interval is None or interval[0] <= point[f"{name}value"] <= interval[1]


def test_the_scorecard_names_the_rules_under_which_training_answers_are_correct() -> None:
    rows: dict[str, Any] = {"overlap": {"removed": 0}}
    tokens: dict[str, Any] = {"left_out": {}, "retention_cut": 0}
    counts = {"rows": rows, "tokens": tokens, "right_by_rule": {"exact": {"right": 3, "rows": 4}}}
    assert _notes(counts) == ["training references that each rule accepts: exact 75.0 % (of 4 rows)"]
    assert _notes({"rows": rows, "tokens": tokens}) == []


def sums(path: Path, numbers: range, *long: int) -> Path:
    """A file of questions, those whose numbers are in `long` too long for any small model."""
    rows = [
        {"problem": f"计算 {n} + 7{' + 0' * 900 if n in long else ''} 等于多少？", "solution": f"{n} + 7 = {n + 7}"}
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def predictions(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    """The lines of each model's answers to the test, by id."""
    return {
        path.stem: {item["id"]: item for item in map(json.loads, path.read_text().splitlines())}
        for path in folder.glob("predictions/arithmetic/*.jsonl")
    }


@pytest.mark.slow
def test_rows_too_long_for_the_model_count_as_wrong(small_base: Path, tmp_path: Path) -> None:
    """A test file is asked whole, a setting cuts the long prompts, and a finished run notices the change."""
    recipe, test = tmp_path / "long.yaml", sums(tmp_path / "test.jsonl", range(100, 112), 103, 104)
    recipe.write_text(SMALL.format(base=small_base))
    validation = sums(tmp_path / "validation.jsonl", range(200, 205), 201)
    words = (
        "run", recipe, f"runs={tmp_path / 'runs'}", f"data.test={test}", "data.test_rows=null",
        f"data.validation={validation}", "--json",
    )  # fmt: skip
    card, folder = json.loads(call(*words).stdout), tmp_path / "runs" / "long"
    asked = {item["name"]: (item["rows"], item["file_rows"], item["too_long"], item["cut"]) for item in card["asked"]}
    assert asked == {"validation": (4, 5, 1, 0), "test": (12, 12, 2, 0), "retention": (4, None, 0, 0)}
    assert (card["target"]["n"], card["target"]["unjudgeable"]) == (12, 0)
    note = "test: 2 of 12 prompts too long for the model: counted as wrong"
    assert {note, "validation: 4 of 5 rows of validation.jsonl"} < set(card["notes"])
    for name in ("report.md", "report.html"):
        assert note in (folder / name).read_text(encoding="utf-8")
    for answers in predictions(folder).values():
        long = {id for id, item in answers.items() if item["finish_reason"] == "too_long"}
        assert long == {"test.jsonl:4", "test.jsonl:5"}
        assert all(
            (answers[id]["answer"], answers[id]["correct"], answers[id]["prompt_truncated"]) == ("", False, False)
            for id in long
        )
    again = call(*words)
    assert "changed:" not in again.stderr
    assert json.loads(again.stdout) == card
    result = call(*words, "evaluate.on_too_long=truncate")
    changed = 'changed: evaluate.on_too_long: "wrong" -> "truncate" (invalidates prepare, validate, evaluate)'
    assert changed in result.stderr
    cut = {item["name"]: (item["too_long"], item["cut"]) for item in json.loads(result.stdout)["asked"]}
    assert cut == {"validation": (0, 1), "test": (0, 2), "retention": (0, 0)}
    for answers in predictions(folder).values():
        assert {id for id, item in answers.items() if item["prompt_truncated"]} == {"test.jsonl:4", "test.jsonl:5"}
    refused = call(*words, "evaluate.on_too_long=stop", status=2).stderr
    assert "validation rows: 1 prompts are too long for the model: validation.jsonl:2" in refused


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["letter", "likelihood:letter"])
def test_a_model_alone_answers_a_file_with_rows_that_are_too_long(small_base: Path, tmp_path: Path, judge: str) -> None:
    file, out = tmp_path / "choice.jsonl", tmp_path / "predictions.jsonl"
    rows = [
        {"question": f"Which is {n}? " + "x" * (9000 * (n == 2)), "options": ["a", "b"], "answer": "A"}
        for n in range(4)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--model", small_base, "--task", "choice", "--data", file, f"task.scorer={judge}", "task.max_new_tokens=4")
    result = call("evaluate", *words, "--out", out, "--json")
    returned = json.loads(result.stdout)
    of_file = {"file": "choice.jsonl", "file_rows": 4}
    counted = {"name": "test", "rows": 4, **of_file, "too_long": 1, "cut": 0, "left_out": 0}
    assert (returned["n"], returned["asked"]) == (4, counted)
    lines = sorted(out.read_bytes().splitlines())
    [long] = [item for item in map(json.loads, lines) if item["finish_reason"] == "too_long"]
    assert (long["id"], long["answer"], long["correct"]) == ("choice.jsonl:3", "", False)
    out.write_bytes(b"".join(line + b"\n" for line in lines[:2]))
    displayed = call("evaluate", *words, "--out", out).stdout
    assert "note: test: 1 of 4 prompts too long for the model: counted as wrong" in displayed
    assert sorted(out.read_bytes().splitlines()) == lines
    displayed = call("evaluate", *words, "--limit", 2, "evaluate.on_too_long=truncate").stdout
    assert "note: test: 2 of 4 rows of choice.jsonl" in displayed
    output = call("evaluate", *words, "evaluate.on_too_long=stop", status=2).stderr
    assert "row choice.jsonl:3: the prompt has" in output
    assert "evaluate.on_too_long" in output


@pytest.mark.slow
def test_a_prompt_that_is_too_long_has_an_empty_answer(small_base: Path, tmp_path: Path) -> None:
    file, out = sums(tmp_path / "test.jsonl", range(4), 1, 2), tmp_path / "answers.jsonl"
    words = ("generate", "--model", small_base, "--task", "arithmetic", "--data", file, "task.max_new_tokens=4")
    result = call(*words, "--out", out, "--json")
    returned = json.loads(result.stdout)
    assert (returned["rows"], returned["too_long"], returned["cut"]) == (4, 2, 0)
    assert "4 answers in" in result.stderr
    assert "2 are empty, as the prompt is too long for the model" in result.stderr
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [f"test.jsonl:{n}" for n in range(1, 5)]
    assert [answer["answer"] for answer in answers[1:3]] == ["", ""]
    returned = json.loads(call(*words, "--out", out, "--force", "--json", "evaluate.on_too_long=truncate").stdout)
    assert (returned["too_long"], returned["cut"]) == (0, 2)
    assert "row test.jsonl:2" in call(*words, "--out", out, "--force", "evaluate.on_too_long=stop", status=2).stderr
    long = ("generate", "--model", small_base, "--prompt", "1 + " * 900, "task.max_new_tokens=4")
    assert "evaluate.on_too_long=truncate" in call(*long, status=2).stderr
    assert "answer" in json.loads(call(*long, "evaluate.on_too_long=truncate", "--json").stdout)
