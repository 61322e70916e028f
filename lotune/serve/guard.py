"""What a request passes before it reaches an endpoint: the host, the key, the size of its body."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from lotune.serve.errors import ApiError, shutting_down
from lotune.serve.gateway import Gateway
from lotune.serve.keys import ApiKeys

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
OPEN_PATHS = ("/health", "/ready")
"""Paths that need no key, so that a supervisor can ask."""
PAGE_COOKIE = "lotune_key"
SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class Guard:
    """An ASGI application around another: it refuses requests before their bodies are read as a whole.

    `hosts` are the names under which the server may be asked, none for any: a page of another site that points its own
    name at this machine is refused. `open_paths` need no key.
    """

    def __init__(
        self, app: Any, gateway: Gateway, keys: ApiKeys | None, hosts: Collection[str], open_paths: Collection[str] = ()
    ) -> None:
        self.app, self.gateway, self.keys, self.hosts = app, gateway, keys, frozenset(hosts)
        self.open_paths = frozenset((*OPEN_PATHS, *open_paths))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            self.gateway.metrics.refused(error.status)
            await _refuse(error, send)
            return
        await _Bounded(self, receive, send).run(scope)

    def _check(self, scope: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts and _host(headers.get("host", "")) not in self.hosts:
            raise ApiError(421, "this server is not asked under this name", code="unknown_host")
        if self.keys is not None and scope["path"] not in self.open_paths and scope["method"] != "OPTIONS":
            self.keys.check(headers.get("authorization", "") or _key_of_page(scope, headers.get("cookie", "")))
        if self.gateway.draining and scope["method"] == "POST":
            raise shutting_down()
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.gateway.limits.max_body_bytes:
            raise self.too_large()

    def too_large(self) -> ApiError:
        """Return the error of a body that is too large."""
        return ApiError(
            413, f"the body has more than {self.gateway.limits.max_body_bytes} bytes", code="body_too_large"
        )


class _Bounded:
    """One request whose body is counted as it is read; a body without a length could otherwise have any."""

    def __init__(self, guard: Guard, receive: Any, send: Any) -> None:
        self.guard, self._receive, self._send = guard, receive, send
        self._read, self._too_large = 0, False

    async def run(self, scope: Any) -> None:
        """Pass the request on, and refuse it instead if its body turns out to be too large."""
        await self.guard.app(scope, self.receive, self.send)
        if self._too_large:
            self.guard.gateway.metrics.refused(413)
            await _refuse(self.guard.too_large(), self._send)

    async def receive(self) -> Any:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self.guard.gateway.limits.max_body_bytes:
            self._too_large = True
            return {"type": "http.disconnect"}  # nothing more is read
        return message

    async def send(self, message: Any) -> None:
        if self._too_large:  # what the application says of half a body
            return
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
        await self._send(message)


async def _refuse(error: ApiError, send: Any) -> None:
    body = orjson.dumps(error.body())
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *SECURITY_HEADERS]
    if error.status == 413:  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _key_of_page(scope: Any, cookies: str) -> str:
    """Return the key in a cookie as an Authorization header: a page's frame, such as a report, has no other way."""
    if scope["method"] != "GET" or not scope["path"].startswith("/ui/"):
        return ""
    found = (part.strip().partition("=") for part in cookies.split(";"))
    return next((f"Bearer {value}" for name, _, value in found if name == PAGE_COOKIE), "")


def _host(header: str) -> str:
    """Return a Host header without its port.

    >>> _host("localhost:8000"), _host("[::1]:80")
    ('localhost', '[::1]')
    """
    return header.rpartition(":")[0].lower() if header.rpartition(":")[2].isdigit() else header.lower()
