"""The socket that a server listens on."""

from __future__ import annotations

import socket

from lotune.errors import SettingsError


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes a free one.

    Raises: SettingsError if the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SettingsError("--port", f"{host}:{port} cannot be used: {reason}", "a free port", "--port 0") from None
    return bound
