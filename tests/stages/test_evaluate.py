"""What an evaluation writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lotune.cli import app
from lotune.stages.evaluate import _notes

RECIPE = """
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}
task: {{name: reading, language: en}}
data: {{rows: 16, validation_rows: 2, test_rows: 3}}
tune: {{batch_rows: 8}}
checkpoints: {{count: 1, merged: none}}
retention: {{rows: 5, language: zh}}
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
    assert "asked on cpu in float32" in card["notes"]
    assert len(card["retention"]) == 6
    for line in card["retention"]:
        for name in ("base", "tuned"):
            interval = line[f"{name}_interval"]  # null where no row scores
            assert interval is None or interval[0] <= line[name] <= interval[1]
    for point in card["checkpoints"]:
        for name in ("validation_", ""):
            interval = point[f"{name}interval"]
            assert interval is None or interval[0] <= point[f"{name}value"] <= interval[1]


def test_the_scorecard_says_under_which_rules_training_answers_are_right() -> None:
    rows: dict[str, Any] = {"overlap": {"removed": 0}}
    tokens: dict[str, Any] = {"left_out": {}, "retention_cut": 0}
    counts = {"rows": rows, "tokens": tokens, "right_by_rule": {"exact": {"right": 3, "rows": 4}}}
    assert _notes(counts) == ["training answers that are right themselves: exact 75.0 % (of 4 rows)"]
    assert _notes({"rows": rows, "tokens": tokens}) == []
