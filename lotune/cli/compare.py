"""The command `lotune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Predictions file, or folder of a finished run.")],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="Predictions file or run folder to compare with A, for the same rows.")
    ],
    score: Annotated[
        str | None,
        typer.Option(help="Score to compare, such as rouge_l or accuracy. Default: the metric of the task."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test which of two models is better on the same rows.

    If the difference is not significant, print how many rows would show it.
    """

    def work() -> Any:
        from lotune.stages.compare import compare

        return compare(a, b, score, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
