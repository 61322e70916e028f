"""The command `lotune inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import recipe_from_options, run_options, run_verb
from lotune.cli.options import Debug, Json, Overrides


def inspect(
    target: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="Folder of a run, or with --task a file of rows.")],
    overrides: Overrides = None,
    row: Annotated[str | None, typer.Option(help="Number of a row from 1, or its id. Default: the first.")] = None,
    step: Annotated[int | None, typer.Option(help="Step of the run whose rows are shown.")] = None,
    part: Annotated[str, typer.Option(help="Part of a run: train or validation.")] = "train",
    task: Annotated[str | None, typer.Option(help="Task that reads the FILE.")] = None,
    base: Annotated[str | None, typer.Option(help="Base whose tokeniser encodes the FILE. Default: nano.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show the id of each token.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show rows, blocks and steps as tokens."""

    def work() -> Any:
        from lotune.stages.inspect import inspect_file, inspect_run

        options = run_options(False, json, debug)
        if task is None:
            return inspect_run(target, part, row, step, ids, options)
        return inspect_file(target, recipe_from_options("inspect", task, overrides or [], base), row, ids, options)

    run_verb(work, json=json, debug=debug)
