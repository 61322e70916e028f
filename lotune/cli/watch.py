"""The command `lotune watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Watch a training from another shell."""

    def work() -> Any:
        from lotune.stages.watch import watch

        return watch(run, once, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
