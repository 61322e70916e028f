"""The verb `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A predictions file, or the folder of a finished run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, on the same rows.")],
    score: Annotated[
        str | None,
        typer.Option(help="Compare this figure, such as rouge_l or accuracy. Default: the one they were judged for."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which of two models is better on the same rows.

    If these rows cannot tell, it says how many could.
    """

    def work() -> Any:
        from lotune.stages.compare import compare

        return compare(a, b, score, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
