"""The command `lotune run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_recipe_verb, run_verb
from lotune.cli.options import RECIPE_HELP, Debug, DryRun, Json, Lang, Overrides
from lotune.text_display import print_visible


def run(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)] = None,
    overrides: Overrides = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes of lotune.")] = False,
    dry_run: DryRun = False,
    lang: Lang = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run all unfinished stages of a recipe; print the scorecard."""
    if list_recipes or recipe is None:
        run_verb(lambda: _recipes(list_recipes, json), json=json, debug=debug)
    else:
        run_recipe_verb("run", recipe, overrides, dry_run, json, debug, lang)


def _recipes(requested: bool, json: bool) -> Any:
    """Print the shipped recipes, and return their purpose by name. Raises: SettingsError if nobody asked for them."""
    from lotune.errors import SettingsError
    from lotune.recipes.shipped import recipe_names, recipe_purpose

    if not requested:
        raise SettingsError("run", "no recipe", "RECIPE", "`lotune run --list` lists the recipes of lotune")
    purposes = {name: recipe_purpose(name) for name in recipe_names()}
    if not json:
        width = max(map(len, purposes))
        print_visible("\n".join(f"{name:<{width}}  {purpose}" for name, purpose in purposes.items()))
    return purposes
