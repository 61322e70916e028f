"""Responses that stream: server-sent events or plain text, and what ends when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.responses import Response

from lotune.serve.errors import ApiError, api_error

DONE = b"data: [DONE]\n\n"
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def event(data: object, name: str = "") -> bytes:
    r"""Return a server-sent event with JSON data.

    >>> event({"a": 1})
    b'data: {"a":1}\n\n'
    """
    head = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (head, orjson.dumps(data))


@asynccontextmanager
async def closing_on_disconnect(receive: Receive, close: Callable[[], None]) -> AsyncIterator[None]:
    """Call `close` if the client goes away within the block."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        close()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


class StreamedResponse(Response):
    """A response whose `chunks` are sent as they come; `close` is called if the client goes away.

    An error after the first chunk is sent as a chunk by `failed`, as the status cannot change any more.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        close: Callable[[], None],
        *,
        seconds: float,
        media_type: str = "text/event-stream; charset=utf-8",
        failed: Callable[[ApiError], bytes] = lambda error: event(error.body()),
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type)
        del self.headers["content-length"]
        self.chunks, self.close, self.seconds, self.failed = chunks, close, seconds, failed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            # A client that reads nothing must not keep its place for ever.
            async with asyncio.timeout(self.seconds), closing_on_disconnect(receive, self.close):
                try:
                    async for chunk in self.chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except ApiError as error:
                    await send({"type": "http.response.body", "body": self.failed(error), "more_body": True})
                except Exception as error:
                    await send({"type": "http.response.body", "body": self.failed(api_error(error)), "more_body": True})
                    raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.close()
