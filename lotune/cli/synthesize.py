"""The command `lotune synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lotune.cli.execution import run_verb
from lotune.cli.options import Debug, Json


def synthesize(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file: articles, server, rules.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print three requests and an estimate, and ask nothing.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a model write question-answer pairs about articles."""

    def work() -> object:
        from lotune.stages.synthesize import synthesize as run

        return run(recipe, overrides or [], dry_run)

    run_verb(work, json=json, debug=debug, resumes=True)
