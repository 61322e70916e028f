"""The study of memorization through the command line: checkpoints answer seen and unseen rows at temperatures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from command_line import RECIPE, call


@pytest.mark.slow
def test_each_checkpoint_answers_both_parts_at_each_temperature(small_base: Path, tmp_path: Path) -> None:
    file, recipe = tmp_path / "rows.jsonl", yaml.safe_load(RECIPE.format(base=small_base))
    rows = [{"question": f"{n} and 1?", "answer": f"It is {n + 1}."} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe["task"] = {"name": "custom", "prompt": "{question}", "max_new_tokens": 6, "scorer": "rouge-l"}
    recipe["data"] = {"train": str(file), "validation_rows": 4, "test_rows": 6}
    recipe["adapter"] = {"method": "full"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    words = ("study", "memorization", tmp_path / "own.yaml", f"runs={tmp_path}", "--rows", "5", "--temperatures", "0,1")
    result = json.loads(call(*words, "--json").stdout)
    checkpoints = [one["name"] for one in json.loads((tmp_path / "own" / "training.json").read_text())["checkpoints"]]
    points = [(one["checkpoint"], one["temperature"], one["part"], one["rows"]) for one in result["points"]]
    assert points == [
        (name, temperature, part, 5) for name in checkpoints for temperature in (0, 1) for part in ("seen", "unseen")
    ]
    assert all(0 <= one["value"] <= 100 for one in result["points"])
    assert result["points"][-1]["epochs"] == pytest.approx(recipe["tune"].get("epochs", 1), abs=0.5)
    folder = tmp_path / "own" / "memorization"
    picture = ElementTree.parse(folder / "memorization.svg").getroot()
    assert picture.tag.endswith("svg")
    seen = [json.loads(line) for path in folder.glob("*-seen-0.jsonl") for line in path.read_text().splitlines()]
    asked = {row["question"] for row in rows}
    assert all(any(question in one["prompt"] for question in asked) for one in seen)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "own" / "checkpoints").rglob("*.safetensors")}
    again = call(*words)
    assert "rouge_l of questions seen in the training and of others" in again.stdout
    assert json.loads((folder / "results.json").read_text()) == result
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_what_cannot_be_studied_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "text.yaml").write_text("task: {name: text}\ndata: {train: nothing.jsonl}\n")
    words = ("study", "memorization", tmp_path / "text.yaml", f"runs={tmp_path / 'runs'}")
    assert "compares no generated answers" in call(*words, status=2).stderr
    assert "separated by commas" in call(*words, "--temperatures", "warm", status=2).stderr
    rows = ("task={name: instructions, scorer: rouge-l}", "--temperatures", "0,1e9")
    assert "temperature: is 1000000000.0" in call(*words, *rows, status=2).stderr
    assert not (tmp_path / "runs").exists()
