"""The strength of an adapter in a run: given, sought, refused; what is saved, merged and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from safetensors.torch import load_file

from lotune.recipe import read_recipe
from lotune.settings import SettingsError

FORGETS = """
seed: 3
device: cpu
base: {model: nano, dtype: float32}
task: {name: instructions, max_new_tokens: 4, template: plain}
data: {train: ROWS, validation_rows: 4, test_rows: 8}
adapter: {rank: 4}
tune: {steps: 6, micro_batch_rows: 8, learning_rate: 0.02}
checkpoints: {count: 2, merge_check_rows: 3, merged: chosen}
retention: {rows: 10, replay: {rows: 0}, validation_rows: 10, action: report}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weaker")
    rows = [{"prompt": f"what comes after {number}?", "completion": f"{number + 1}"} for number in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "weaker.yaml"
    path.write_text(FORGETS.replace("ROWS", str(folder / "rows.jsonl")))
    return path


def content(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def test_a_given_strength_is_that_of_the_checkpoint_that_is_merged_and_tested(recipe: Path, tmp_path: Path) -> None:
    call("run", recipe, f"runs={tmp_path}", "retention.strength=0.25")
    run = tmp_path / "weaker"
    full = content(run / "validation.json")["chosen"]
    card = content(run / "scorecard.json")
    assert card["chosen_checkpoint"] == f"{full}-strength-0.25"
    folders = [run / "checkpoints" / name for name in (full, card["chosen_checkpoint"])]
    assert not (folders[0] / "merged").exists()
    assert (folders[1] / "merged").is_dir()
    before, after = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    for name, tensor in before.items():
        assert after[name].equal(tensor * (0.25 if ".lora_B." in name else 1.0))
    assert [point["strengths"] for point in card["strength"]["points"]] == [[1.0], [0.25]]
    assert any(note.startswith(f"strength: {full} at 0.25 of its strength retains") for note in card["notes"])
    assert "### Strength of the adapter" in (run / "report.md").read_text()
    assert "Strength of the adapter</h3>" in (run / "report.html").read_text()


def test_a_search_tries_all_strengths_and_groups_and_goes_on_where_it_is_done(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (recipe, f"runs={tmp_path}", "retention.strength=search", "checkpoints.merged=none")
    call("tune", *words)
    tuned = content(tmp_path / "weaker" / "tuning.json")
    points = tuned["strength"]["points"]
    assert [point["strengths"][0] for point in points] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    assert points[-1]["retained"] >= points[0]["retained"]
    passing = [point for point in points if point["passed"]]
    chosen = next(point for point in points if point["strengths"] == tuned["strength"]["chosen"])
    assert chosen in passing if passing else chosen["strengths"] == [1.0]
    assert (tmp_path / "weaker" / "validation" / "retention" / f"{tuned['chosen']}.jsonl").exists()
    with monkeypatch.context() as patch:
        patch.setattr("lotune.generate.engine.Engine.stream", None)
        call("tune", *words)
    call("tune", *words, "retention.strength_groups=2")
    tuned = content(tmp_path / "weaker" / "tuning.json")
    assert {len(point["strengths"]) for point in tuned["strength"]["points"]} == {2}
    assert len({tuple(point["strengths"]) for point in tuned["strength"]["points"]}) > len(points)


def test_a_strength_is_the_last_resort_of_a_repair(recipe: Path, tmp_path: Path) -> None:
    words = (
        "retention.action=repair",
        "retention.repair_steps=5",
        "retention.replay.rows=0",
        "tune.learning_rate=0.08",
    )
    call("tune", recipe, f"runs={tmp_path}", *words, "checkpoints.merged=none", "retention.min_retained=1.0")
    tuned = content(tmp_path / "weaker" / "tuning.json")
    assert tuned["repair"]["passed"] is False
    assert tuned["strength"]["checkpoint"].startswith(("repair-step-", "step-"))
    call("tune", recipe, f"runs={tmp_path}", *words, "checkpoints.merged=none", "retention.strength=1")
    assert "strength" not in content(tmp_path / "weaker" / "tuning.json")


def test_what_cannot_be_weakened_is_refused_at_once(recipe: Path, tmp_path: Path) -> None:
    words = ("adapter={method: prompt_tuning}", "checkpoints.merged=none", "retention.strength=search")
    done = call("run", recipe, f"runs={tmp_path}", *words, status=2)
    assert "prompt_tuning adapters have no strength" in done.stderr
    with pytest.raises(SettingsError, match=r"needs retention validation rows"):
        read_recipe(recipe, ["retention.strength=search", "retention.validation_rows=0"])
