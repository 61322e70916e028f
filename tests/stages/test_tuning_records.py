"""Tuning as an iterator of records: what it yields, and that a consumer may stop it and go on later."""

from __future__ import annotations

import hashlib
import signal
from contextlib import closing
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE

from lotune.files import read_json
from lotune.recipe import Recipe, RunOptions, read_recipe
from lotune.stages.prepare import ensure_prepared, open_prepared_run
from lotune.stages.tune import ensure_tuned
from lotune.stages.tuning import SavedCheckpoint, tuning
from lotune.stages.validate import CheckpointResult
from lotune.train.loop import Step


@pytest.fixture
def recipe(small_base: Path, tmp_path: Path) -> Recipe:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(base=small_base))
    return read_recipe(path, [f"runs={tmp_path / 'runs'}", "checkpoints.merged=none"])


def records_of(recipe: Recipe, most: int | None = None) -> list[Any]:
    """The records of a tuning, at most so many: the rest is not asked for."""
    taken: list[Any] = []
    with open_prepared_run(recipe, RunOptions()) as (run, settled):
        ensure_prepared(run, settled)
        with closing(tuning(run, settled, RunOptions())) as records:
            for record in records:
                taken.append(record)
                if len(taken) == most:
                    break
    return taken


def adapters(recipe: Recipe) -> dict[str, str]:
    files = sorted((recipe.folder / "checkpoints").rglob("adapter_model.safetensors"))
    return {file.parts[-3]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_tuning_yields_steps_checkpoints_and_validations(recipe: Recipe) -> None:
    from lotune.train.resource_estimate import Estimate

    first, *further = records_of(recipe)
    assert isinstance(first, Estimate)
    steps = [record.number for record in further if isinstance(record, Step)]
    assert steps == list(range(1, first.steps + 1))
    for saved, validated in zip(*([r for r in further if isinstance(r, kind)] for kind in KINDS), strict=True):
        index = further.index(saved)
        assert further[index - 1].number == saved.step
        assert further[index + 1] is validated
        assert (validated.name, validated.step) == (saved.name, saved.step)
        assert (saved.folder / "adapter_config.json").is_file()
        with pytest.raises(FrozenInstanceError):
            saved.name = "other"
    trained = read_json(recipe.folder / "training.json")
    assert [item["name"] for item in trained["checkpoints"]] == [
        r.name for r in further if isinstance(r, SavedCheckpoint)
    ]
    assert records_of(recipe) == [], "what is done is not done again"


KINDS = (SavedCheckpoint, CheckpointResult)


def test_a_consumer_stops_a_tuning_and_a_later_one_ends_at_the_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    complete = recipe.model_copy(update={"runs": tmp_path / "whole", "save_every_minutes": 0.0})
    records = records_of(complete)
    first_result = next(number for number, r in enumerate(records, 1) if isinstance(r, CheckpointResult))
    before = signal.getsignal(signal.SIGINT)

    stopped = recipe.model_copy(update={"runs": tmp_path / "stopped", "save_every_minutes": 0.0})
    assert isinstance(records_of(stopped, first_result)[-1], CheckpointResult)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (stopped.folder / "training.json").exists()
    further = records_of(stopped)
    assert 2 < len(further) < len(records), "it goes on from a saved state"
    assert adapters(stopped) == adapters(complete) != {}
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (stopped.folder, complete.folder)]
    assert len(lines[0]) == len(lines[1])


@pytest.fixture
def flat(recipe: Recipe) -> Recipe:
    """A tuning of ten steps that moves nothing, so that its validation is the same at steps 2 and 4."""
    update: dict[str, Any] = {"learning_rate": 1e-9, "epochs": 2.0, "lr_schedule": "wsd", "warmup_ratio": 0.1}
    spacing = recipe.checkpoints.model_copy(update={"spacing": "adaptive", "count": 5})
    tune = recipe.tune.model_copy(update=update)
    return recipe.model_copy(update={"tune": tune, "checkpoints": spacing, "save_every_minutes": 0.0})


def test_a_tuning_ends_early_where_validation_no_longer_rises(flat: Recipe) -> None:
    records = records_of(flat)
    rates = [record.learning_rate for record in records if isinstance(record, Step)]
    assert rates[1:] == pytest.approx([1e-9] * 3 + [0.0]), "the rate falls in the last fifth of the steps"
    trained = read_json(flat.folder / "training.json")
    assert (trained["steps"], trained["planned_steps"]) == (5, 10)
    assert [one["step"] for one in trained["checkpoints"]] == [2, 4, 5]
    assert trained["ended_early"] == "validation is no better than at half the steps"


@pytest.mark.parametrize("stopped_after", [3, 4, 5])
def test_an_early_end_is_resumed_to_the_same_weights(flat: Recipe, tmp_path: Path, stopped_after: int) -> None:
    """Stopped before the decision, after it, and while the rate falls."""
    learns = flat.tune.model_copy(update={"learning_rate": 1e-4})
    whole, stopped = (
        flat.model_copy(update={"runs": tmp_path / name, "tune": learns}) for name in ("whole", "stopped")
    )
    records = records_of(whole)
    assert read_json(whole.folder / "training.json")["steps"] == 5
    most = next(n for n, r in enumerate(records, 1) if isinstance(r, Step) and r.number == stopped_after)
    records_of(stopped, most)
    assert not (stopped.folder / "training.json").exists()
    assert len(records_of(stopped)) < len(records)
    assert adapters(stopped) == adapters(whole) != {}


def test_a_dry_run_ends_after_the_estimate(recipe: Recipe) -> None:
    options = RunOptions(dry_run=True)
    with open_prepared_run(recipe, options) as (run, settled):
        ensure_prepared(run, settled)
        assert len(list(tuning(run, settled, options))) == 1
        assert ensure_tuned(run, settled, options).keys() == {"estimate"}
    assert not (recipe.folder / "checkpoints").exists()
