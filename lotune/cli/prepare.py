"""The command `lotune prepare`."""

from __future__ import annotations

from lotune.cli.execution import run_recipe_verb
from lotune.cli.options import Debug, DryRun, Json, Overrides, RecipeFile


def prepare(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Read or generate the rows; check, split and tokenise them."""
    run_recipe_verb("prepare", recipe, overrides, dry_run, json, debug)
