"""The command `lotune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json, Lang


def report(
    target: Annotated[Path, typer.Argument(metavar="RUN_FOLDER|RECIPE", help="Folder or recipe of a finished run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings that override the recipe.")
    ] = None,
    lang: Lang = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report and the logs of a finished run again."""

    def work() -> Any:
        from lotune.stages.report import report

        return report(target, overrides or [], run_options(False, json, debug, lang))

    run_verb(work, json=json, debug=debug)
