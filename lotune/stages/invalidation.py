"""What a changed setting undoes: said before anything is done again."""

from __future__ import annotations

from lotune.console import print_status
from lotune.recipe import Recipe, check_extras, require_input_files
from lotune.runs import Run
from lotune.stages.dependencies import Stage, stage_inputs
from lotune.stages.run_dtypes import with_kept_dtypes

STAGE_ORDER: tuple[Stage, ...] = ("prepare", "tune", "validate", "merge", "evaluate")
"""The stages of a run in their order."""


def invalidated(run: Run, recipe: Recipe) -> dict[str, list[Stage]]:
    """For each change since a stage was finished, such as "seed: 1 -> 2", the stages that it invalidates."""
    recipe = with_kept_dtypes(recipe, run.folder)
    found: dict[str, list[Stage]] = {}
    for stage in STAGE_ORDER:
        inputs = stage_inputs(recipe, stage)
        for change in run.changes(stage, inputs):
            if change.partition(":")[0] in inputs:
                found.setdefault(change, []).append(stage)
    return found


def report_changes(run: Run, recipe: Recipe, dry_run: bool = False) -> None:
    """Say which settings have changed since the folder was last used, and which stages are done again for it.

    Where that is none, the recipe is the run's from here on; a dry run leaves it.

    Raises: DataError where a file of rows is missing, SettingsError where a tuning needs an extra that is not there.
    """
    require_input_files(recipe)
    found = invalidated(run, recipe)
    if run.stage_state("tune", {}) == "fresh" or any("tune" in stages for stages in found.values()):
        check_extras(recipe)
    for change, stages in found.items():
        print_status(f"changed: {change} (invalidates {', '.join(stages)})")
    named = {change.partition(":")[0] for change in found}
    for change in run.recipe_changes:
        if change.partition(":")[0] not in named:
            print_status(f"changed: {change} (nothing finished depends on it)")
    if not found and run.recipe_changes and not dry_run:
        run.write_recipe()
