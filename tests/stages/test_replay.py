"""Replay in a run: rows that the base writes, held to the base by the divergence, and what the scorecard says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.data.token_files import TokenFile
from lotune.recipe import Recipe, read_recipe
from lotune.stages.replay import divergence_of, source_of
from lotune.train.divergence import DivergenceLoss

RUN = """
retention: {{rows: 4, validation_rows: 0, replay: {{rows: 6, source: base}}}}
"""


@pytest.fixture
def recipe(small_base: Path, tmp_path: Path) -> Path:
    text = RECIPE.format(base=small_base)
    kept = "".join(line + "\n" for line in text.splitlines() if not line.startswith("retention:"))
    (tmp_path / "tiny.yaml").write_text(kept + RUN.format())
    return tmp_path / "tiny.yaml"


def test_rows_that_the_base_writes_are_replayed_and_stand_on_the_scorecard(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    plain = DivergenceLoss.__init__

    def watched(self: DivergenceLoss, model: object, weight: float, *settings: Any) -> None:
        weights.append(weight)
        plain(self, model, weight, *settings)

    monkeypatch.setattr(DivergenceLoss, "__init__", watched)
    card = json.loads(call("run", recipe, f"runs={tmp_path}", "--json").stdout)
    folder = tmp_path / "tiny" / "data"
    written = [json.loads(line) for line in (folder / "replay.jsonl").read_text().splitlines()]
    rows = TokenFile(folder / "train")
    assert [row["id"] for row in written] == [f"base:{number}" for number in range(1, 7)]
    assert sum(rows[index].is_replay for index in range(len(rows))) == 6
    assert weights == [0.5], "the divergence is on where the base writes the rows"
    assert card["replay"]["source"] == "base"
    assert card["replay"]["rows"] == 6
    assert card["replay"]["rehearsed"] == "reading", "some rows begin as its prompts do"
    sets = {divergence["set"]: divergence for divergence in card["divergence"]}
    assert sets.keys() == {"test prompts", "replay rows"}
    assert all(divergence["value"] > 0 and divergence["tokens"] > 0 for divergence in sets.values())
    assert any("6 rows that the base wrote itself" in note for note in card["notes"])
    first = (folder / "replay.jsonl").read_bytes()
    call("prepare", recipe, f"runs={tmp_path / 'again'}")
    assert (tmp_path / "again" / "tiny" / "data" / "replay.jsonl").read_bytes() == first, "the seed decides"


def test_rows_of_the_retention_task_are_called_a_rehearsal(recipe: Path, tmp_path: Path) -> None:
    call("prepare", recipe, f"runs={tmp_path}", "retention.replay.source=generator")
    counts = json.loads((tmp_path / "tiny" / "data" / "counts.json").read_text())["replay"]
    assert (counts["rows"], counts["source"], counts["rehearsed"]) == (6, "generator", "reading")


def test_a_file_of_texts_is_replayed(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A first text about ships.\n\nA second text about trains.\n")
    call("prepare", recipe, f"runs={tmp_path}", "retention.replay={rows: 6, data: %s}" % (tmp_path / "texts.txt"))
    counts = json.loads((tmp_path / "tiny" / "data" / "counts.json").read_text())["replay"]
    assert counts["source"] == "file"
    assert counts["rows"] >= 1
    missing = "retention.replay={data: missing.jsonl}"
    assert "retention.replay.data: missing.jsonl does not exist" in call("prepare", recipe, missing, status=2).stderr


def test_nano_rehearses_and_other_bases_write_their_own(recipe: Path) -> None:
    assert (source_of(Recipe()), divergence_of(Recipe())) == ("generator", 0.0)
    other = read_recipe(recipe)
    assert (source_of(other), divergence_of(other)) == ("base", 0.5)
    refused = call("prepare", recipe, "retention.replay.rows=0", "retention.divergence=2", status=2).stderr
    assert "needs replay rows" in refused
    assert "names no file" in call("prepare", recipe, "retention.replay.source=file", status=2).stderr


def test_a_tuning_ends_early_where_it_is_too_far_from_its_base(recipe: Path, tmp_path: Path) -> None:
    words = (recipe, f"runs={tmp_path}", "checkpoints.merged=none", "tune.learning_rate=0.05")
    call("tune", *words, "tune.max_divergence=1000", "name=free")
    free = json.loads((tmp_path / "free" / "training.json").read_text())
    said = call("tune", *words, "tune.max_divergence=1e-9", "name=held").stderr
    held = json.loads((tmp_path / "held" / "training.json").read_text())
    assert free["ended_early"] is None
    assert free["steps"] == free["planned_steps"]
    assert held["steps"] < held["planned_steps"]
    assert "above tune.max_divergence = 1e-09" in held["ended_early"]
    assert "ends early: KL(base‖tuned) on replay rows" in " ".join(said.split())
