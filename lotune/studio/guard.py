"""What a request to a studio passes first: the host, the site that it comes from, and the token.

Whoever can ask a studio can start commands and read files, so nothing answers without its token, and no page of another
site can use the browser of somebody who has it: the cookie is not sent along (SameSite), Origin and Sec-Fetch-Site are
checked, and a name that points to this machine on purpose (DNS rebinding) is refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson

from lotune.studio.errors import CallError

TOKEN_FILE = "token"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET", "HEAD")
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin"),
]  # fmt: skip
LOCKED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>lotune studio</title>
<p>This is the studio of somebody on this machine. Open the address that <code>lotune studio</code> printed: \
it ends in a token.</p>
<p lang="zh">这是本机某位用户的工作台。请打开 <code>lotune studio</code> 打印的地址，其末尾带有令牌。</p></html>
"""


def studio_token(folder: Path) -> str:
    """Return the token of a studio from its own folder, made on the first call; only its owner can read the file.

    It stays the same, so that a page that is open goes on after a restart of the server.
    """
    file = folder / TOKEN_FILE
    try:
        token = file.read_text().strip()
    except OSError:
        token = ""
    if len(token) < 32:
        token = secrets.token_urlsafe(32)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{TOKEN_FILE}.{os.getpid()}"
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
            out.write(token + "\n")
        os.replace(temporary, file)
    return token


class Guard:
    """An ASGI application around another that lets pass who has the token.

    `loopback` tells that the server listens on this machine alone; otherwise it may also be asked by any address in
    numbers. `hosts` are further names. `once` opens the pages a single time in place of the token: the address that a
    browser is started with can be seen by other users of the machine.
    """

    def __init__(
        self, app: Any, token: str, port: int, *, loopback: bool, hosts: Collection[str] = (), once: str = ""
    ) -> None:
        self.app, self.token, self.loopback, self.once = app, token, loopback, once
        self.hosts = frozenset((*LOOPBACK_HOSTS, *hosts))
        self.cookie = f"lotune_studio_{port}"  # a cookie is sent to all ports of a host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_origin(scope, headers)
            given = parse_qsl(scope["query_string"].decode("latin-1"))
            if scope["method"] == "GET" and self._opens(dict(given).get("token", "")):
                await self._let_in(scope, given, send)
                return
            self._check_token(headers)
        except CallError as error:
            await _refuse(error, scope, headers, send)
            return

        async def secured(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
            await send(message)

        await self.app(scope, receive, secured)

    def _check_origin(self, scope: Any, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not self._is_own(host):
            raise CallError(421, "unknown_host", "this studio is not asked under this name")
        if scope["method"] not in SAFE_METHODS:
            own = f"{scope.get('scheme', 'http')}://{host}"
            from_own = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
            if headers.get("origin", own) != own or not from_own:
                raise CallError(403, "other_site", "the page of another site may not ask this studio")

    def _is_own(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() in self.hosts:
            return True
        if self.loopback:
            return False
        try:  # an address in numbers can be pointed nowhere else
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _check_token(self, headers: Mapping[str, str]) -> None:
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(text.strip()):
            return
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        if not any(name == self.cookie and self._is_token(value) for name, _, value in cookies):
            raise CallError(401, "no_token", "the token is missing", "open the address that lotune studio printed")

    def _opens(self, text: str) -> bool:
        if self.once and hmac.compare_digest(text.encode(), self.once.encode()):
            self.once = ""
            return True
        return self._is_token(text)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())

    async def _let_in(self, scope: Any, given: Sequence[tuple[str, str]], send: Any) -> None:
        """Put the token of the address into a cookie, and take it out of the address."""
        rest = urlencode([(name, value) for name, value in given if name != "token"])
        place = scope["path"] + (f"?{rest}" if rest else "")
        cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
        place = "/" + place.lstrip("/")  # two slashes would lead to another host
        headers = [
            (b"location", place.encode("latin-1", "replace")),
            (b"set-cookie", cookie.encode()),
            *SECURITY_HEADERS,
        ]
        await send({"type": "http.response.start", "status": 303, "headers": [*headers, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def _refuse(error: CallError, scope: Any, headers: Mapping[str, str], send: Any) -> None:
    for_people = error.status == 401 and "text/html" in headers.get("accept", "")
    body = LOCKED.encode() if for_people else orjson.dumps(error.body())
    kind = b"text/html; charset=utf-8" if for_people else b"application/json"
    fields = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *SECURITY_HEADERS]
    if scope["method"] not in SAFE_METHODS:  # its body is not read
        fields.append((b"connection", b"close"))
    if error.status == 401:
        fields.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
