"""The recipes of the contest's two phases: their plan, and a small run of each on nano."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import call

from lotune.recipe import read_recipe
from lotune.stages.tuning_session import make_plan

ROWS = {"contest-phase1": 90_000, "contest-phase2": 25_462}
"""Training rows: those that are generated, and those that 27,562 rows leave beside test and validation."""
SMALL = (
    *("base.model=nano", "threads=1", "tune.steps=5", "tune.micro_batch_rows=4", "tune.learning_rate=1e-3"),
    *("data.test_rows=6", "data.validation_rows=4", "retention.rows=6", "retention.validation_rows=0"),
    *("retention.replay.rows=0", "checkpoints.merge_check_rows=3", "task.max_new_tokens=8", "retention.action=report"),
)
GENERATED = {"contest-phase1": ["data.generated_rows=40"], "contest-phase2": ["data.sample.rows=40"]}


@pytest.fixture
def inputs(reference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the recipes ask for."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(reference_data / "squad" / "dev-v1.1.json", tmp_path)
    shutil.copy(reference_data / "contest" / "choice-2000.json", tmp_path / "choice.json")
    return tmp_path


@pytest.mark.parametrize("name", ROWS)
def test_five_checkpoints_are_evenly_spread_over_all_epochs(name: str) -> None:
    recipe = read_recipe(Path(name), ["retention.replay.rows=0"])
    plan = make_plan(recipe, ROWS[name])
    epochs = recipe.tune.epochs
    assert isinstance(epochs, int | float)
    assert plan.steps == pytest.approx(epochs * ROWS[name] / recipe.tune.micro_batch_rows, abs=1)
    assert list(plan.checkpoints) == [round(number * plan.steps / 5) for number in range(1, 6)]
    assert plan.decisions == ()  # it never ends early
    assert recipe.merged_checkpoints == "all"


@pytest.mark.parametrize(
    ("name", "base", "count", "ratio"),
    [
        ("contest-phase1", "llama-3-8b", 3_407_872, 0.000424393),
        ("contest-phase2", "internlm-7b", 4_194_304, 0.000572914),
    ],
)
def test_the_trained_parameters_are_those_of_the_contest(name: str, base: str, count: int, ratio: float) -> None:
    from lotune.evaluate.adapter_layout import lora_layout
    from lotune.evaluate.parameter_ratio import ratio as parameter_ratio
    from lotune.model.known_bases import known_base

    recipe, known = read_recipe(Path(name)), known_base(base)
    layout = lora_layout(known.shape, recipe.adapter.target_modules, recipe.adapter.rank)
    assert layout.count == count
    assert parameter_ratio(count, known.shape.total, recipe.score.base_total) == pytest.approx(ratio, abs=5e-10)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ROWS)
def test_a_dry_run_checks_the_inputs_and_estimates(name: str, inputs: Path) -> None:
    shown = call("run", name, *SMALL, *GENERATED[name], "--dry-run").stderr
    assert "estimate: " in shown
    (inputs / "dev-v1.1.json").unlink()
    assert "dev-v1.1.json does not exist" in call("run", name, *SMALL, "--dry-run", status=2).stderr


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("name", ROWS)
def test_a_small_run_on_nano(name: str, inputs: Path) -> None:
    call("run", name, *SMALL, *GENERATED[name])
    run = inputs / "runs" / name
    card = json.loads((run / "scorecard.json").read_text(encoding="utf-8"))
    assert [point["step"] for point in card["checkpoints"]] == [1, 2, 3, 4, 5]
    assert all((run / "checkpoints" / f"step-00000{step}" / "merged" / "config.json").exists() for step in range(1, 6))
    rule, convention = ("phase1", "llama3-8b") if name == "contest-phase1" else ("phase2", "internlm-7b")
    assert (card["score"]["rule"], card["parameters"]["convention"]) == (rule, convention)
