"""The command `lotune init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Training rows: a file, or a folder of files.")],
    out: Annotated[
        Path | None, typer.Option(help="Recipe to write. Default: FILE with the suffix .yaml, in the current folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a first recipe for a data file.

    Recognise the task from the rows, and show three of them as the model will see them.
    """

    def work() -> Any:
        from lotune.stages.init import init

        return init(file, out, force, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
