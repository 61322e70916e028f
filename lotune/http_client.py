"""The HTTP client for other servers, in whichever version of httpx is installed."""

from __future__ import annotations

from typing import Any

__all__ = ["http_client", "httpx"]

try:
    import httpx2 as httpx  # the name of httpx since its second version
except ImportError:  # pragma: no cover - older environments
    import httpx  # type: ignore[no-redef, import-not-found]

CONNECT_SECONDS = 10.0
"""Seconds within which a connection must be made."""


def http_client(seconds: float, key: str = "", *, connections: int = 100) -> Any:
    """Return an asynchronous client that sends a key, and waits for so many seconds for each part of an answer.

    It follows no redirection, so that another server cannot send a request elsewhere, and reads no proxy or password
    from the environment. `connections` is the maximum number of connections.
    """
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {}, follow_redirects=False, trust_env=False,
        timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    )  # fmt: skip
