"""A tuning that forgot is repaired: from where, on which rows, and with what result after an interruption."""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.recipe import Recipe, RunOptions, read_recipe
from lotune.stages import tuning as tuning_stage
from lotune.stages.prepare import ensure_prepared, open_prepared_run
from lotune.stages.repair import repair_recipe
from lotune.stages.tuning import tuning
from lotune.stages.validate import CheckpointResult, choose_checkpoint, repair_start
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.task import Score
from lotune.train.loop import Step

FORGETS = """
seed: 3
device: cpu
base: {model: nano, dtype: float32}
task: {name: instructions, max_new_tokens: 4, template: plain}
data: {train: ROWS, validation_rows: 4, test_rows: 8}
adapter: {rank: 4}
tune: {steps: 12, micro_batch_rows: 8, learning_rate: 0.03}
checkpoints: {count: 2, merge_check_rows: 3}
retention: {rows: 10, replay: {rows: 0}, validation_rows: 10, repair_steps: 10}
"""
"""A rate so high, and no replay, that nano no longer reads."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forgets")
    rows = [{"prompt": f"what comes after {number}?", "completion": f"{number + 1}"} for number in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "forgets.yaml"
    path.write_text(FORGETS.replace("ROWS", str(folder / "rows.jsonl")))
    return path


@pytest.fixture(scope="module")
def repaired(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    call("run", recipe, f"runs={runs}")
    return runs / "forgets"


def content(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def adapters(folder: Path) -> dict[str, str]:
    files = sorted((folder / "checkpoints").rglob("adapter_model.safetensors"))
    return {file.parts[-3]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_tuning_goes_on_from_its_best_checkpoint(repaired: Path) -> None:
    tuned = content(repaired / "tuning.json")
    names = [one["name"] for one in tuned["checkpoints"]]
    assert names == [
        *("step-000006", "step-000012"),
        *(f"repair-step-{step:06d}" for step in (2, 4, 6, 8, 10)),
    ]
    assert [one["step"] for one in tuned["checkpoints"]] == [6, 12, 14, 16, 18, 20, 22]
    assert not any(one["gate_passed"] for one in tuned["checkpoints"][:2])
    done = tuned["repair"]
    assert (done["steps"], done["replay_rows"], done["source"]) == (10, 1000, "generator")
    first = content(repaired / "validation.json")
    assert done["start"] == first["chosen"]
    assert str(content(repaired / "stages.json")["tune"]["outputs"]).count("step-0000") == 2
    start = (repaired / "repair" / "recipe.yaml").read_text()
    assert f"checkpoints/{done['start']}/adapter" in start
    assert "learning_rate: 0.015" in start
    card = content(repaired / "scorecard.json")
    assert card["repair"] == done
    assert any(note.startswith(f"repair: {done['start']} retained") for note in card["notes"])
    assert "repair-step-000010" in (repaired / "report.md").read_text()


def test_the_five_checkpoints_of_a_repair_are_the_hand_in(recipe: Path, tmp_path: Path) -> None:
    call("run", recipe, f"runs={tmp_path}", "tune.learning_rate=0.012", "retention.repair_steps=20")
    card = content(tmp_path / "forgets" / "scorecard.json")
    spacing = next(claim for claim in card["claims"] if claim["name"] == "spacing")
    steps = (4, 8, 12, 16, 20)
    assert (spacing["passed"], spacing["detail"]) == (True, "after 4, 8, 12, 16, 20 of 20 steps of the repair")
    out = tmp_path / "bundle.zip"
    words = (tmp_path / "forgets", "--team", "The Team", "--out", out, "--json")
    claimed = json.loads(call("bundle", *words).stdout)["claims"]
    assert (claimed["training"], claimed["steps"]) == ("repair", 20)
    checks = json.loads(call("bundle", "--check", out, "--json", status=1).stdout)["checks"]
    failed = [check["name"] for check in checks if check["result"] == "failed"]
    assert failed == ["complete checkpoints"], "only the chosen one was merged"
    with zipfile.ZipFile(out) as file:
        folders = {name.split("/")[1] for name in file.namelist() if name.startswith("checkpoints/")}
    assert folders == {f"repair-step-{step:06d}" for step in steps}


def test_a_repair_has_the_rows_of_its_run(repaired: Path) -> None:
    for name in ("validation", "test", "retention", "retention_validation"):
        rows = [folder / "data" / f"{name}.jsonl" for folder in (repaired, repaired / "repair")]
        assert rows[0].read_bytes() == rows[1].read_bytes()
    for name in ("validation", "validation/retention"):
        answers = repaired / name / "repair-step-000010.jsonl"
        assert answers.read_bytes() == (repaired / "repair" / name / "step-000010.jsonl").read_bytes()


def test_a_repaired_run_is_done_and_untouched_checkpoints_are_kept(
    recipe: Path, repaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("tune", recipe, f"runs={tmp_path}", "retention.action=report")
    untouched = adapters(tmp_path / "forgets")
    assert list(untouched) == ["step-000006", "step-000012"]
    assert content(tmp_path / "forgets" / "tuning.json").get("repair") is None
    before = adapters(repaired)
    assert untouched.items() <= before.items()
    monkeypatch.setattr("lotune.stages.tuning._train", None)
    monkeypatch.setattr("lotune.generate.engine.Engine.stream", None)
    call("run", recipe, f"runs={repaired.parent}")
    assert adapters(repaired) == before


def test_an_interrupted_repair_goes_on_to_the_same_weights(
    recipe: Path, repaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = tuning_stage._validate

    def stopping(recipe: Recipe, tuning: Any, validation: Any, base: Any, checkpoint: Any) -> Any:
        result = validate(recipe, tuning, validation, base, checkpoint)
        if recipe.name == "repair" and checkpoint.step == 4:
            raise KeyboardInterrupt
        return result

    words = (recipe, f"runs={tmp_path}", "save_every_minutes=0", "checkpoints.merged=none")
    with monkeypatch.context() as patch:
        patch.setattr(tuning_stage, "_validate", stopping)
        call("tune", *words, status=130)
    assert not (tmp_path / "forgets" / "tuning.json").exists()
    assert "resuming after step 3" in call("tune", *words).stderr
    assert adapters(tmp_path / "forgets") == adapters(repaired)


def test_a_tuning_stops_at_the_first_checkpoint_that_has_forgotten(recipe: Path, tmp_path: Path) -> None:
    words = ("retention.action=stop", "tune.steps=20", "checkpoints.count=4", "checkpoints.merged=none")
    call("tune", recipe, f"runs={tmp_path}", *words)
    trained = content(tmp_path / "forgets" / "training.json")
    assert trained["ended_early"].startswith("step-000005 retains ")
    assert trained["steps"] < trained["planned_steps"] == 20


def test_a_tuning_with_a_goal_ends_when_it_is_reached(small_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(base=small_base))
    words = (f"runs={tmp_path}", "tune.epochs=2", "checkpoints.count=5", "checkpoints.spacing=adaptive")
    asked: list[str] = []

    def goal(results: Any) -> str | None:
        asked.append(results[-1].name)
        return "reached" if len(results) == 2 else None

    with open_prepared_run(read_recipe(path, words), RunOptions()) as (run, recipe):
        ensure_prepared(run, recipe)
        with closing(tuning(run, recipe, RunOptions(), goal)) as records:
            steps = [record.number for record in records if isinstance(record, Step)]
    assert asked == ["step-000002", "step-000004"]
    assert steps == [1, 2, 3, 4, 5], "the rate still falls in a last step"
    assert content(run.folder / "training.json")["ended_early"] == "reached"


def test_a_repair_replays_what_its_source_has(repaired: Path) -> None:
    from lotune.runs import Run

    recipe = read_recipe(repaired / "recipe.yaml", ["tune.learning_rate=0.01"])
    choices = recipe.retention.model_copy(update={"task": "sentences"})
    for source, changed in (("generator", recipe), ("base", recipe.model_copy(update={"retention": choices}))):
        further = repair_recipe(Run(repaired), changed, "step-000012")
        assert further.retention.replay.source == source
        assert further.retention.action == "report", "a repair is not repaired"
        assert (further.retention.divergence, further.tune.steps) == (1.0, 10)
        assert further.tune.learning_rate == pytest.approx(0.005)


def test_a_repair_is_due_where_the_gate_costs_more_than_chance() -> None:
    task = build_task(task_settings("custom"))

    def course(*checkpoints: tuple[int, float]) -> tuple[list[CheckpointResult], dict[str, list[Score]]]:
        """Checkpoints that have so many of 20 rows right, and retain so much."""
        results, scores = [], {}
        for step, (right, retained) in enumerate(checkpoints):
            limits = retained - 0.02, retained + 0.02
            results.append(CheckpointResult(f"{step}", step, right / 20, 1.0, None, retained, limits, retained >= 0.9))
            scores[f"{step}"] = [Score("", "", row < right) for row in range(20)]
        return results, scores

    def start(*checkpoints: tuple[int, float]) -> str | None:
        results, scores = course(*checkpoints)
        return repair_start(results, choose_checkpoint(results, task, scores), task, scores)

    assert start((4, 0.95), (19, 0.8)) == "1", "the best one forgot, and those that pass are worse"
    assert start((18, 0.95), (19, 0.8)) is None, "one more row is chance"
    assert start((4, 0.8), (19, 0.7)) == "1", "none passes"
    assert start((4, 0.95), (19, 0.92)) is None
    unmeasured = [CheckpointResult("0", 1, 0.5, 1.0, None, None, None, False)]
    assert repair_start(unmeasured, unmeasured[0], task, {"0": [Score("", "", True)]}) is None
