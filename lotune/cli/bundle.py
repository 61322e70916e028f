"""The command `lotune bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, run_options, run_verb
from lotune.cli.options import BaseModel, Debug, Json
from lotune.errors import SettingsError


def bundle(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of a finished run.", show_default=False)
    ] = None,
    team: Annotated[str | None, typer.Option(help="Name of the team.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: a zip named after the team.")] = None,
    link: Annotated[str | None, typer.Option(help="Address of the team's code.")] = None,
    without_merged: Annotated[
        bool, typer.Option("--without-merged", help="Leave the merged models out; the manifest holds their digests.")
    ] = False,
    check: Annotated[
        Path | None, typer.Option(metavar="ZIP", help="Verify a bundle from outside instead of writing one.")
    ] = None,
    rerun: Annotated[
        int | None, typer.Option(min=1, help="With --check: ask this many rows again with the bundle's model.")
    ] = None,
    base: BaseModel = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the hand-in of a run, or verify one (--check)."""

    def work() -> Any:
        options = run_options(False, json, debug)
        if check is not None:
            _refuse({"RUN": run, "--team": team, "--out": out, "--link": link}, "together with --check")
            from lotune.stages.check_bundle import check_bundle

            return check_bundle(check, rerun, base, options)
        _refuse({"--rerun": rerun, "--base": base}, "without --check")
        if run is None or team is None:
            missing = "RUN" if run is None else "--team"
            raise SettingsError("bundle", f"no {missing}", "RUN --team NAME, or --check ZIP")
        from lotune.stages.bundle import bundle

        return bundle(run, team, expand_user(out), link, without_merged, options)

    run_verb(work, json=json, debug=debug)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Raise SettingsError that names the options given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise SettingsError("bundle", f"{', '.join(given)} {why}", remedy="leave it out")
