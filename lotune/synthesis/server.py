"""An OpenAI-compatible server as the writer of pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import orjson

from lotune.errors import ModelError, RunError
from lotune.http_client import http_client, httpx
from lotune.synthesis.settings import ServerSettings

OVERLOAD = (429, 503, 529)
"""Statuses by which a server says that it has too much to do."""
MAX_REPLY_BYTES = 8 * 2**20
MAX_RETRY_AFTER = 60.0


@dataclass(frozen=True)
class Reply:
    """A reply and its tokens, 0 where the server does not count them."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ServerFaultError(Exception):
    """A request failed, and may be sent again: by `kind`, after `retry_after` seconds if the server names a time."""

    def __init__(self, kind: str, found: str, retry_after: float | None = None) -> None:
        super().__init__(found)
        self.kind, self.retry_after = kind, retry_after

    @property
    def is_overload(self) -> bool:
        """Whether the server had too much to do."""
        return self.kind in ("busy", "time-out")


class ChatServer:
    """One model of a server. Raises: ModelError if the server cannot be reached or serves no model."""

    def __init__(self, settings: ServerSettings, at_once: int) -> None:
        self.settings = settings
        self.url, self.model = settings.url.rstrip("/").removesuffix("/v1"), settings.model
        if not self.url.startswith(("http://", "https://")):
            raise ModelError("server.url", f"{settings.url} is no address", "such as http://127.0.0.1:8000")
        self._schema = settings.json_schema != "off"
        key = os.environ.get(settings.key_env, "")
        self._client = http_client(settings.timeout, key, connections=at_once + 1)

    async def connect(self) -> None:
        """Find the model, if none is named."""
        if self.model:
            return
        try:
            response = await self._client.get(f"{self.url}/v1/models")
            if response.status_code == 401:
                raise ModelError(self.url, "needs an API key", f"in {self.settings.key_env}")
            self.model = str(response.json()["data"][0]["id"])
        except httpx.HTTPError as error:
            remedy = "check server.url"
            raise ModelError(self.url, f"cannot be reached ({type(error).__name__})", "a server", remedy) from None
        except (ValueError, LookupError, TypeError):
            raise ModelError(self.url, "lists no model", remedy="set server.model") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def body(self, messages: list[dict[str, str]], schema: dict[str, Any] | None) -> dict[str, Any]:
        """Return the request for a reply."""
        settings = self.settings
        fields: dict[str, Any] = {
            "model": self.model, "messages": messages, "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }  # fmt: skip
        return {**fields, "response_format": schema} if schema is not None and self._schema else fields

    async def chat(self, messages: list[dict[str, str]], schema: dict[str, Any] | None) -> Reply:
        """Return the reply to a conversation; `schema` is a `response_format`.

        Raises: ServerFaultError for a request that may be sent again; RunError for one that the server will never take.
        """
        body = self.body(messages, schema)
        status, content, headers = await self._post(body)
        if status == 400 and "response_format" in body and self.settings.json_schema == "auto":
            self._schema = False  # a server without schemas
            status, content, headers = await self._post(self.body(messages, schema))
        if status != 200:
            raise self._fault(status, content, headers)
        try:
            data = orjson.loads(content)
            text = data["choices"][0]["message"]["content"]
            usage = data.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError, ValueError):
            raise ServerFaultError("malformed", "the response is no chat completion") from None
        if not isinstance(text, str):
            raise ServerFaultError("malformed", "the response has no text")
        return Reply(text, *counts)

    async def _post(self, body: dict[str, Any]) -> tuple[int, bytes, Any]:
        try:
            async with self._client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
                content = b""
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        raise ServerFaultError("malformed", f"the response has more than {MAX_REPLY_BYTES} bytes")
                return response.status_code, content, response.headers
        except httpx.TimeoutException:
            raise ServerFaultError("time-out", f"no answer within {self.settings.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise ServerFaultError("connection", f"the connection failed ({type(error).__name__})") from None

    def _fault(self, status: int, content: bytes, headers: Any) -> Exception:
        message = _message(content)
        if status in OVERLOAD:
            return ServerFaultError("busy", f"status {status}: {message}", _seconds(headers.get("retry-after")))
        if status >= 500 or status in (408, 409):
            return ServerFaultError("server error", f"status {status}: {message}", _seconds(headers.get("retry-after")))
        remedy = f"put a key into {self.settings.key_env}" if status in (401, 403) else "see the settings of server"
        return RunError(self.url, f"refuses a request with status {status}: {message}", remedy=remedy)


def _message(content: bytes) -> str:
    try:
        return " ".join(str(orjson.loads(content)["error"]["message"]).split())[:200]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return " ".join(content[:200].decode("utf-8", "replace").split())


def _seconds(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header; a date, or none, is None."""
    try:
        return min(max(float(header or ""), 0.0), MAX_RETRY_AFTER)
    except ValueError:
        return None
