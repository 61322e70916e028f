"""The verb `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Your training rows.")],
    out: Annotated[Path | None, typer.Option(help="Recipe to write. Default: named after the file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a first recipe for a file of rows.

    It recognises the task by the rows, and shows three of them as the model is trained on them.
    """

    def work() -> Any:
        from lotune.stages.init import init

        return init(file, out, force, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
