"""Repair a tuning that forgot: tune on from its best checkpoint, in a run of its own in the folder `repair`.

The checkpoints of the repair become checkpoints of the run; those of the tuning are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.errors import LotuneError
from lotune.evaluate.last_training import REPAIR_PREFIX
from lotune.evaluate.repair import (
    DIVERGENCE,
    RATE_FRACTION,
    Repair,
    repair_rows,
    retains_beyond_doubt,
)
from lotune.evaluate.replay import ReplayCounts, ReplaySource
from lotune.files import read_json, write_json
from lotune.recipe import Recipe, RunOptions
from lotune.runs import Run
from lotune.settings import AUTO
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.dependencies import stage_inputs
from lotune.stages.prepare import ensure_prepared, open_prepared_run
from lotune.stages.replay import has_replay_generator, source_of
from lotune.stages.strength import with_strength
from lotune.stages.tuning_display import run_tuning
from lotune.stages.validate import CheckpointResult, ensure_validated, validate
from lotune.stages.validation_rows import ANSWERS

FOLDER = "repair"
"""Folder of the repair's own run."""
TUNING_FILE = "tuning.json"
"""File of a run with the figures of all its checkpoints, and the chosen one."""
CHECKPOINTS = 5
"""Number of checkpoints of a repair, if it does not end early."""
WARMUP_RATIO = 0.05
"""Fraction of a repair's steps over which the learning rate rises."""


def ensure_repaired(run: Run, recipe: Recipe, validated: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    """Return the content of tuning.json: the figures of the validation, of a repair and of a strength, if they are due.

    `recipe` has numbers in place of "auto". A repair that cannot be made leaves the figures as they are.
    """
    path = run.folder / TUNING_FILE
    inputs = {**stage_inputs(recipe, "repair"), "validation": run.folder / "validation.json"}
    if run.stage_state("repair", inputs) != "done":
        run.invalidate_stage("repair")
        tuned = validated
        start = next((one for one in validated["checkpoints"] if one["name"] == validated.get("repair_start")), None)
        if recipe.retention.action == "repair" and start is not None:
            try:
                tuned = _repair(run, recipe, validated, start, options)
            except LotuneError as error:
                print_status(f"the tuning cannot be repaired: {error}")
        tuned = with_strength(run, recipe, tuned)
        write_json(path, tuned)
        run.mark_stage_done("repair", inputs, [path, *_added_adapters(run, validated, tuned)])
    record: dict[str, Any] = read_json(path)
    return record


def _repair(
    run: Run, recipe: Recipe, validated: dict[str, Any], start: dict[str, Any], options: RunOptions
) -> dict[str, Any]:
    """Tune on from a checkpoint, and choose again among all checkpoints."""
    further = repair_recipe(run, recipe, start["name"])
    none = not any(one["gate_passed"] for one in validated["checkpoints"])
    kept = f"retains {recipe.retention.min_retained:.0%} of the base"
    why = f"no checkpoint {kept}" if none else f"no checkpoint that {kept} is as good as {start['name']}"
    print_status(f"repair: {why}; tuning on from {start['name']}")

    def goal(results: Sequence[CheckpointResult]) -> str | None:
        last, enough = results[-1], recipe.retention.min_retained
        passed = retains_beyond_doubt(last.retained, last.retained_interval, enough)
        return f"{last.name} retains {last.retained:.1%} of the base" if passed else None

    with open_prepared_run(further, options) as (repair, settled):
        counts = ensure_prepared(repair, settled)
        run_tuning(repair, settled, options, goal)
        tuned = ensure_validated(repair, with_stored_settings(settled, repair.folder))
    names = {one["name"]: REPAIR_PREFIX + one["name"] for one in tuned["checkpoints"]}
    for name, copied in names.items():
        _copy_checkpoint(run, repair, name, copied)
    after = validated["checkpoints"][-1]["step"]
    added = [{**one, "name": names[one["name"]], "step": after + one["step"]} for one in tuned["checkpoints"]]
    result = validate(run, recipe, {**validated, "checkpoints": [*validated["checkpoints"], *added]})
    best = next(one for one in result["checkpoints"] if one["name"] == names[tuned["chosen"]])
    replay = ReplayCounts.from_counts(counts)
    record = Repair(
        start=start["name"], retained_before=start["retained"], chosen=best["name"], retained=best["retained"],
        passed=bool(best["gate_passed"]), steps=tuned["steps"], replay_rows=replay.rows, source=replay.source,
        seconds=tuned["seconds"] + replay.seconds,
    )  # fmt: skip
    print_status(record.describe())
    # `learning` is about the tuning itself, without the steps of the repair.
    return {**result, "learning": validated["learning"], "repair": record.model_dump()}


def repair_recipe(run: Run, recipe: Recipe, start: str) -> Recipe:
    """Return the recipe of a repair: the run's, but from a checkpoint, with more replay rows and the divergence."""
    source, replayed = _source(recipe), ReplayCounts.from_counts(read_json(run.folder / "data" / "counts.json")).rows
    replay = recipe.retention.replay.model_copy(
        update={"rows": repair_rows(replayed, source), "rows_per_epoch": AUTO, "source": source}
    )
    retention = recipe.retention.model_copy(
        update={"action": "report", "strength": 1.0, "replay": replay, "divergence": DIVERGENCE}
    )
    tune = recipe.tune.model_copy(update={
        "steps": recipe.retention.repair_steps, "epochs": "auto", "warmup_ratio": WARMUP_RATIO, "warmup_steps": None,
        "learning_rate": RATE_FRACTION * float(recipe.tune.learning_rate),
    })  # fmt: skip
    spacing = "adaptive" if recipe.checkpoints.spacing == "adaptive" else "even"
    checkpoints = {"count": CHECKPOINTS, "spacing": spacing, "merged": "none"}
    adapter = run.folder / "checkpoints" / start / "adapter"
    return recipe.model_copy(update={
        "runs": run.folder, "name": FOLDER, "retention": retention, "tune": tune,
        "checkpoints": recipe.checkpoints.model_copy(update=checkpoints),
        "adapter": recipe.adapter.model_copy(update={"init_from": adapter}),
    })  # fmt: skip


def _source(recipe: Recipe) -> ReplaySource:
    """Return where the replay rows of a repair come from: as in the tuning, or the base if there is no generator."""
    source = source_of(recipe)
    return "base" if source == "generator" and not has_replay_generator(recipe) else source


def _copy_checkpoint(run: Run, repair: Run, name: str, copied: str) -> None:
    """Copy a checkpoint of the repair, and its answers to the validation rows, into the run that is repaired."""
    folder = run.folder / "checkpoints" / copied
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(repair.folder / "checkpoints" / name / "adapter", folder / "adapter")
    for file in (repair.folder / ANSWERS).rglob(f"{name}.jsonl"):
        folder = run.folder / file.parent.relative_to(repair.folder)
        shutil.copyfile(file, folder / f"{copied}.jsonl")


def _added_adapters(run: Run, validated: dict[str, Any], tuned: dict[str, Any]) -> list[Path]:
    """Return the adapters that a repair or a strength added to those of the tuning."""
    added = tuned["checkpoints"][len(validated["checkpoints"]) :]
    return [run.folder / "checkpoints" / one["name"] / "adapter" for one in added]
