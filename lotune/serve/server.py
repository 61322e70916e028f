"""Runs the application with uvicorn: one process, a drained end, and a line when it is ready."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from lotune.serve.gateway import Gateway

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75


class Server(uvicorn.Server):
    """A uvicorn server that refuses new requests on open connections, too, once it has been told to end."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.gateway, self._tell = gateway, started

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let running answers finish; a second Ctrl-C ends them."""
        self.gateway.draining = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, and say so."""
        await super().startup(sockets)
        if self.started:
            self._tell()


def make_server(app: Any, gateway: Gateway, started: Callable[[], None]) -> Server:
    """Return the server of an application; `started` is called when it accepts connections."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, backlog=BACKLOG,
        limit_concurrency=gateway.limits.max_connections, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(gateway.limits.request_seconds), ws="none", lifespan="on",
    )  # fmt: skip
    return Server(config, gateway, started)


def run_server(app: Any, gateway: Gateway, bound: socket.socket, started: Callable[[], None]) -> None:
    """Serve an application until SIGTERM or Ctrl-C; `started` is called when it accepts connections."""
    # Only what goes wrong is logged; no prompt is.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("uvicorn")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    make_server(app, gateway, started).run(sockets=[bound])
