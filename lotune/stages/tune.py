"""`lotune tune`: train an adapter, validate its checkpoints, repair what was forgotten, and merge the best one."""

from __future__ import annotations

from typing import Any

from lotune.files import read_json
from lotune.recipe import Recipe, RunOptions
from lotune.runs import Run
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.merging import ensure_merged
from lotune.stages.prepare import ensure_prepared, open_prepared_run
from lotune.stages.repair import ensure_repaired
from lotune.stages.tuning import TRAINING_FILE
from lotune.stages.tuning_display import run_tuning
from lotune.stages.validate import ensure_validated


def tune(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Train, validate, repair and merge the adapter, unless that is done; prepare the data first if needed."""
    with open_prepared_run(recipe, options) as (run, recipe):
        ensure_prepared(run, recipe)
        return ensure_tuned(run, recipe, options)


def ensure_tuned(run: Run, recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Return the figures of tuning, validation, repair and merging; repeat what is missing or depends on a change."""
    forecast = run_tuning(run, recipe, options)
    if options.dry_run:
        trained: dict[str, Any] = read_json(run.folder / TRAINING_FILE) if forecast is None else {"estimate": forecast}
        return trained
    recipe = with_stored_settings(recipe, run.folder)
    tuned = ensure_repaired(run, recipe, ensure_validated(run, recipe), options)
    return tuned | {"merge_checks": ensure_merged(run, recipe, tuned)}
