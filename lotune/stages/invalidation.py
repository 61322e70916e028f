"""Stages that a changed setting invalidates, printed before any of them runs again."""

from __future__ import annotations

from lotune.console import print_status
from lotune.recipe import Recipe, check_extras, check_run_settings, require_input_files
from lotune.runs import Run
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.dependencies import Stage, stage_inputs

STAGE_ORDER: tuple[Stage, ...] = ("prepare", "tune", "validate", "repair", "merge", "evaluate")
"""The stages of a run in their order."""


def invalidated(run: Run, recipe: Recipe) -> dict[str, list[Stage]]:
    """Return the stages that each change since a stage was finished, such as "seed: 1 -> 2", invalidates."""
    # "auto" against what was stored would be listed as a change on every call.
    recipe = with_stored_settings(recipe, run.folder)
    stages_by_change: dict[str, list[Stage]] = {}
    for stage in STAGE_ORDER:
        inputs = stage_inputs(recipe, stage)
        for change in run.changes(stage, inputs):
            if change.partition(":")[0] in inputs:
                stages_by_change.setdefault(change, []).append(stage)
    return stages_by_change


def report_changes(run: Run, recipe: Recipe, dry_run: bool = False) -> None:
    """Print which settings have changed since the folder was last used, and which stages that invalidates.

    If it invalidates none, the recipe becomes that of the run; a dry run writes nothing.

    Raises: DataError if a file of rows is missing; SettingsError if a tuning needs an extra that is not installed, or
    for settings that a run does not have.
    """
    require_input_files(recipe)
    check_run_settings(recipe)
    changes = invalidated(run, recipe)
    if run.stage_state("tune", {}) == "fresh" or any("tune" in stages for stages in changes.values()):
        check_extras(recipe)
    for change, stages in changes.items():
        print_status(f"changed: {change} (invalidates {', '.join(stages)})")
    named = {change.partition(":")[0] for change in changes}
    for change in run.recipe_changes:
        if change.partition(":")[0] not in named:
            print_status(f"changed: {change} (nothing finished depends on it)")
    if not changes and run.recipe_changes and not dry_run:
        run.write_recipe()
