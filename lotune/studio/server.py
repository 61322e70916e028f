"""`lotune studio`: serve the pages of a folder, and open them in the browser."""

from __future__ import annotations

import logging
import secrets
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.errors import SettingsError, install_extra

PORT = 8765
STOP_SECONDS = 3
"""Seconds that open requests get when the server ends."""
KEEP_ALIVE_SECONDS = 75


@dataclass(frozen=True)
class StudioServerOptions:
    """Where a studio listens; a `port` of None is PORT, or a free one if it is taken."""

    host: str = "127.0.0.1"
    port: int | None = None
    allowed_hosts: tuple[str, ...] = ()
    opens_browser: bool = True


def studio(folder: Path, options: StudioServerOptions) -> None:
    """Serve the studio of a folder until the process is told to end; its queue and its runs go on.

    Raises: SettingsError for a folder or an address that cannot be used, or if a package is missing.
    """
    try:
        import fastapi  # noqa: F401
        import ruamel.yaml  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise SettingsError("lotune studio", f"needs {error.name}", remedy=install_extra("studio")) from None
    from lotune.serve.listening import listening_socket
    from lotune.studio.app import StudioOptions, build_app
    from lotune.studio.guard import studio_token
    from lotune.studio.studio import Studio

    if not folder.is_dir():
        raise SettingsError(str(folder), "is not a folder", "the folder for rows, recipes and runs")
    working = Studio.at(folder)
    if working.workspace.runs.exists() and not working.workspace.contains(working.workspace.runs):
        found, remedy = "leads outside of the folder", "start the studio where the runs are"
        raise SettingsError(str(folder / "runs"), found, remedy=remedy)
    bound = listening_socket(options.host, *_port(options))
    port = int(bound.getsockname()[1])
    loopback = options.host in ("localhost", "::1") or options.host.startswith("127.")
    token, once = studio_token(working.workspace.own), secrets.token_urlsafe(32)
    app = build_app(working, StudioOptions(token, port, loopback, options.allowed_hosts, once))
    address = _address(options.host, port)
    if not loopback:
        print_status(f"warning: whoever reaches {options.host} and has the address can start commands on this machine")

    def started() -> None:
        print_status(f"studio of {working.workspace.folder}: ready on {address}/?token={token}")
        if options.opens_browser:
            webbrowser.open(f"{address}/?token={once}")

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("uvicorn").addHandler(handler)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    make_server(app, started, uvicorn).run(sockets=[bound])


def make_server(app: Any, started: Any, uvicorn: Any) -> Any:
    """Return the server of an application; `started` is called when it accepts connections."""

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS, ws="none", lifespan="on",
    )  # fmt: skip
    return Server(config)


def _port(options: StudioServerOptions) -> tuple[int]:
    """Return the port to listen on: the one that is named, or PORT unless it is taken."""
    import socket

    if options.port is not None:
        return (options.port,)
    with socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, PORT))
        except OSError:
            return (0,)
    return (PORT,)


def _address(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"
