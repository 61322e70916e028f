"""The command `lotune sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json


def sample(
    task: Annotated[str, typer.Option(help="Task to generate rows for: arithmetic, reading, copying or equations.")],
    out: Annotated[Path, typer.Option(help="Output file.")],
    rows: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    mixture: Annotated[
        str | None, typer.Option(help="Mixture of problem types for arithmetic: deduplicated (default) or raw.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language: zh (default), en or both.")] = None,
    form: Annotated[
        str,
        typer.Option(help="Layout: rows (the task's own), conversation (turns); of reading also articles or pairs."),
    ] = "rows",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate rows of a task and write them to a file."""

    def work() -> Any:
        from lotune.settings import read_settings
        from lotune.stages.sample import sample
        from lotune.tasks.registry import entry_named

        # Read as settings of the task, so that a task without languages refuses them with the error of a recipe.
        options = {"mixture": mixture, "language": language}
        overrides = [f"{name}={value}" for name, value in options.items() if value is not None]
        settings = read_settings(entry_named(task).settings, None, overrides)
        return sample(settings, rows, seed, out, form, force, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
