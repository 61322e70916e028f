"""The command `lotune tune`."""

from __future__ import annotations

from lotune.cli.execution import run_recipe_verb
from lotune.cli.options import Debug, DryRun, Json, Overrides, RecipeFile


def tune(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Train the adapter and validate its checkpoints."""
    run_recipe_verb("tune", recipe, overrides, dry_run, json, debug)
