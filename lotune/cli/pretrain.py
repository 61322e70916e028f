"""The command `lotune pretrain`."""

from __future__ import annotations

from lotune.cli.execution import run_recipe_verb
from lotune.cli.options import Debug, DryRun, Json, Overrides, RecipeFile


def pretrain(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Pre-train a base model on articles or generated text."""
    run_recipe_verb("pretrain", recipe, overrides, dry_run, json, debug)
