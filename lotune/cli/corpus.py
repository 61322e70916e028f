"""The command `lotune corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import RECIPE_HELP, Debug, Json, Overrides


def corpus(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="File or folder of articles.")],
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option(help=f"{RECIPE_HELP} Default: the settings of no recipe.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a pre-training would take of articles."""

    def work() -> Any:
        from lotune.recipe import Recipe, read_recipe
        from lotune.settings import read_settings
        from lotune.stages.corpus import corpus

        words = [*(overrides or []), f"pretrain.corpus={folder}"]
        read = read_settings(Recipe, None, words) if recipe is None else read_recipe(recipe, words)
        return corpus(read, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
