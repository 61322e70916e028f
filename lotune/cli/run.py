"""The command `lotune run`."""

from __future__ import annotations

from lotune.cli.execution import run_recipe_verb
from lotune.cli.options import Debug, DryRun, Json, Overrides, RecipeFile


def run(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Run all unfinished stages of a recipe and print the scorecard."""
    run_recipe_verb("run", recipe, overrides, dry_run, json, debug)
