"""The command `lotune leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, run_options, run_verb
from lotune.cli.options import Debug, Json


def leaderboard(
    things: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN|BUNDLE]...", help="Folders of finished runs, and bundles.")
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(help="Published rows to check: csv or json with accuracy, ratio, score, team."),
    ] = None,
    rule: Annotated[str, typer.Option(help="Score rule of published rows alone: phase1 or phase2.")] = "phase1",
    html: Annotated[Path | None, typer.Option(help="Write the leaderboard as a page to this file.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank runs and bundles by score, and check published scores."""

    def work() -> Any:
        from lotune.stages.leaderboard import leaderboard

        return leaderboard(things or [], published, rule, expand_user(html), run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
