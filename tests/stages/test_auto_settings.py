"""What "auto" stands for in a tuning: resolved from its rows, printed, kept with the run, and part of its inputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import RECIPE, call

from lotune.train import auto_settings


@pytest.fixture
def recipe(small_base: Path, tmp_path: Path) -> Path:
    file = tmp_path / "auto.yaml"
    text = RECIPE.format(base=small_base).replace("adapter: {rank: 2}\n", "")
    file.write_text(re.sub(r"tune: .*\n", "", text))
    return file


def test_a_dry_run_shows_what_was_resolved_and_why(recipe: Path, tmp_path: Path) -> None:
    words = ("tune", recipe, f"runs={tmp_path}", "--dry-run")
    said = call(*words).stderr
    rows = json.loads(call(*words, "--json").stdout)["estimate"]
    assert rows["steps"] == auto_settings.FEWEST_STEPS
    assert re.search(r"^auto: tune\.micro_batch_rows=8 \(40 rows of \d+ tokens\)$", said, re.MULTILINE)
    assert "auto: tune.epochs=60 (300 steps of 8 rows)" in said
    assert re.search(r"^auto: tune\.learning_rate=0\.025 \(LoRA with alpha 16 on llama of width 32\)$", said, re.M)
    assert "auto: adapter.rank=8" in said
    assert "auto: checkpoints.spacing=adaptive (ends early once validation no longer rises)" in said
    said = call(*words, "tune.steps=20", "tune.learning_rate=0.01", "adapter.rank=2").stderr
    assert re.findall("^auto: (.*)=", said, re.MULTILINE) == [
        "checkpoints.spacing", "tune.micro_batch_rows", "tune.warmup_ratio",
    ]  # fmt: skip
    said = call(*words, "tune.steps=20", "adapter.method=prompt_tuning", "adapter.num_virtual_tokens=3").stderr
    assert "auto: tune.learning_rate=0.15 (prompt tuning)" in said


@pytest.mark.slow
def test_a_run_keeps_what_it_began_with(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, folder = (recipe, f"runs={tmp_path}", "tune.epochs=1"), tmp_path / "auto"
    call("run", *words)
    kept = json.loads((folder / "auto_settings.json").read_text())["settings"]
    assert {key: choice["value"] for key, choice in kept.items()} == {
        "checkpoints.spacing": "even", "tune.micro_batch_rows": 8,
        "tune.warmup_ratio": 0.5, "tune.learning_rate": 0.025, "adapter.rank": 8,
    }  # fmt: skip
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(step["learning_rate"] for step in steps if "loss" in step) == pytest.approx(0.025)
    before = (folder / "scorecard.json").read_bytes()

    monkeypatch.setattr(auto_settings, "ROWS_OF_LARGEST_STEP", 1)  # the rules of another version
    assert "changed:" not in call("run", *words).stderr
    said = call("run", *words, "tune.learning_rate=0.025", "adapter.rank=8", "tune.gradient_accumulation_steps=2")
    assert "nothing finished depends on it" in said.stderr
    assert (folder / "scorecard.json").read_bytes() == before, "a value that is named is the one that was resolved"
    said = call("tune", *words, "adapter.rank=4", "checkpoints.count=1", "--dry-run")
    assert "changed: adapter.rank: 8 -> 4 (invalidates tune, evaluate)" in said.stderr
    assert "auto: tune.micro_batch_rows=32" in said.stderr, "another tuning follows the rules of this version"
