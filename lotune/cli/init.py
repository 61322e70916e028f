"""The command `lotune init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json
from lotune.errors import SettingsError


def init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE|FOLDER", help="Training rows: a file, or a folder of files.")
    ] = None,
    copied: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Copy a recipe of lotune instead; `lotune run --list` lists them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Recipe to write. Default: FILE with the suffix .yaml, in the current folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a first recipe for a data file, or copy one (--from).

    Recognise the task from the rows, and show three of them as the model will see them.
    """

    def work() -> Any:
        if copied is not None and file is None:
            from lotune.stages.copy_recipe import copy_recipe

            return copy_recipe(copied, out, force)
        if file is None or copied is not None:
            raise SettingsError("init", "no rows" if file is None else "rows and --from", "FILE or --from NAME")
        from lotune.stages.init import init

        return init(file, out, force, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
