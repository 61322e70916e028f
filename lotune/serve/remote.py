"""Models of other servers, OpenAI-compatible ones or such with `/generate`, under names of this server.

A request for the answer to a conversation is passed on, and the answer is passed back as it comes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from starlette.responses import Response

from lotune.errors import SettingsError
from lotune.http_client import http_client, httpx
from lotune.serve.errors import ApiError
from lotune.serve.protocol import ChatRequest
from lotune.serve.streaming import DONE, StreamedResponse, event
from lotune.serve.usage import Usage, new_id

MAX_BYTES = 8 * 2**20
"""Longest answer of another server that is passed on."""
GENERATE = "/generate"


@dataclass(eq=False)
class RemoteModel:
    """A model of another server; `url` ends with /generate, or is the address of an OpenAI-compatible server.

    `model` is the name of the model there, empty for the first one. `key` is sent to that server, and shown nowhere.
    """

    name: str
    url: str
    model: str = ""
    key: str = field(default="", repr=False)
    seconds: float = 600.0
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        self._client = http_client(self.seconds, self.key)

    @property
    def is_plain(self) -> bool:
        """Whether the server streams plain text."""
        return self.url.endswith(GENERATE)

    async def respond(self, body: ChatRequest) -> Response:
        """Return the answer of the other server. Raises: ApiError if it cannot be reached."""
        if not body.stream:
            return Response(orjson.dumps(await self._whole(body)), media_type="application/json")
        return StreamedResponse(self._stream(body), lambda: None, seconds=self.seconds)

    async def texts(self, body: ChatRequest) -> AsyncGenerator[str]:
        """Yield the pieces of the answer to a conversation. Raises: ApiError if there is none."""
        if self.is_plain:
            async for text in self._texts(body):
                yield text
            return
        rest = b""
        async for chunk in self._send("/v1/chat/completions", await self._openai(body)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {") and (text := self._text_of(line[6:])):
                    yield text

    def _text_of(self, data: bytes) -> str:
        try:
            content = orjson.loads(data)
            choices = content["choices"] if "error" not in content else None
            return str((choices[0].get("delta") or {}).get("content") or "") if choices else self._empty(choices)
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            raise self._fault("sent no answer") from None

    def _empty(self, choices: Any) -> str:
        if choices is None:
            raise self._fault("sent an error")
        return ""  # a last chunk with the usage has no choices

    async def close(self) -> None:
        """Close the connections to the server."""
        await self._client.aclose()

    async def _whole(self, body: ChatRequest) -> Any:
        if self.is_plain:
            text = "".join([piece async for piece in self._texts(body)])
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            return {**self._head("chat.completion"), "choices": [choice], "usage": Usage(0).body()}
        content = b"".join([chunk async for chunk in self._send("/v1/chat/completions", await self._openai(body))])
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise self._fault("sent no JSON") from None

    async def _stream(self, body: ChatRequest) -> AsyncIterator[bytes]:
        if not self.is_plain:
            async for chunk in self._send("/v1/chat/completions", await self._openai(body)):
                yield chunk
            return
        head = self._head("chat.completion.chunk")
        async for piece in self._texts(body):
            yield event({**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield DONE

    async def _texts(self, body: ChatRequest) -> AsyncIterator[str]:
        """Yield the answer to the last message as plain text, in whole characters."""
        import codecs

        fields = {
            "prompt": body.messages[-1].plain()["content"], "max_new_tokens": body.max_tokens or 225,
            "temperature": body.temperature, "top_k": body.top_k,
        }  # fmt: skip
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for chunk in self._send("", fields):
            if text := decoder.decode(chunk):
                yield text

    async def _openai(self, body: ChatRequest) -> dict[str, Any]:
        fields = body.model_dump(exclude_unset=True, exclude_none=True)
        return {**fields, "model": self.model or await self._first_model()}

    async def _first_model(self) -> str:
        content = b"".join([chunk async for chunk in self._send("/v1/models", None)])
        try:
            self.model = str(orjson.loads(content)["data"][0]["id"])
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise self._fault("lists no model") from None
        return self.model

    async def _send(self, path: str, fields: dict[str, Any] | None) -> AsyncIterator[bytes]:
        """Yield the bytes of the answer to a request: a GET without fields, else a POST with JSON."""
        sent = 0
        try:
            method = "GET" if fields is None else "POST"
            async with self._client.stream(method, self.url + path, json=fields) as response:
                if response.status_code != 200:
                    raise self._fault(f"answered with status {response.status_code}")
                async for chunk in response.aiter_bytes():
                    sent += len(chunk)
                    if sent > MAX_BYTES:
                        raise self._fault("sent too much")
                    yield chunk
        except httpx.HTTPError as error:
            raise self._fault(f"cannot be reached ({type(error).__name__})") from None

    def _fault(self, found: str) -> ApiError:
        return ApiError(502, f"the server of {self.name} {found}", "server_error", code="remote_failed")

    def _head(self, kind: str) -> dict[str, Any]:
        usage = Usage(0)
        return {"id": new_id("chatcmpl"), "object": kind, "created": usage.created, "model": self.name}


def remote_model(name: str, address: str, key: str = "") -> RemoteModel:
    """Return the model at an address, `URL` or `URL#MODEL`, whose server may want a key.

    >>> remote_model("peer", "http://10.0.0.7:8000/v1#nano").url
    'http://10.0.0.7:8000'

    Raises: SettingsError for an address that is no URL of HTTP.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(name, f"{address} is no address", "http://HOST:PORT, or ending with /generate")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return RemoteModel(name, urlunsplit((parts.scheme, parts.netloc, path, "", "")), parts.fragment, key)
