"""The command `lotune studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lotune.cli.execution import expand_user, run_verb
from lotune.cli.options import Debug


def studio(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Folder of rows, recipes and runs. Default: this one.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's let others start commands.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. Default: 8765, or a free one.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name under which this server may be asked, such as that of a proxy.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the pages in the browser.")] = True,
    debug: Debug = False,
) -> None:
    """Start, watch and continue the runs of a folder in the browser."""

    def work() -> None:
        from lotune.studio.server import StudioServerOptions, studio

        options = StudioServerOptions(host, port, tuple(allow_host or ()), browser)
        studio(expand_user(folder) or Path(), options)

    run_verb(work, json=False, debug=debug)
