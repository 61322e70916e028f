"""POST /v1/responses, for plain text: a chat in the form of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from lotune.serve.chat import ChatCall
from lotune.serve.completions import reason_of
from lotune.serve.errors import ApiError
from lotune.serve.gateway import Gateway
from lotune.serve.protocol import ResponsesRequest
from lotune.serve.streaming import event
from lotune.serve.usage import new_id


class ResponsesCall:
    """One request for a response, answered by a chat."""

    def __init__(self, gateway: Gateway, body: ResponsesRequest) -> None:
        """Render and encode the conversation. Raises: ApiError for one that cannot be answered."""
        self.body, self.chat = body, ChatCall(gateway, body.as_chat())
        self.id, self.message_id = new_id("resp"), new_id("msg")

    async def start(self) -> None:
        """Submit the request."""
        await self.chat.start()

    def close(self) -> None:
        """Free the place of the answer if it has not ended."""
        self.chat.close()

    async def whole(self) -> dict[str, Any]:
        """Return the response that does not stream."""
        text, reason = "", ""
        async for pieces in self.chat.pieces():
            text += "".join(piece.text for piece in pieces)
            reason = reason_of(pieces[-1].completion)
        if not reason:
            raise ApiError(499, "the client went away")
        return self._response(text, reason)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events, named and numbered."""
        numbers = count()

        def send(kind: str, **fields: Any) -> bytes:
            return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)

        place = {"item_id": self.message_id, "output_index": 0, "content_index": 0}
        for kind in ("response.created", "response.in_progress"):
            yield send(kind, response=self._response("", ""))
        yield send("response.output_item.added", output_index=0, item=self._item("", "in_progress", []))
        yield send("response.content_part.added", **place, part=_part(""))
        text, reason = "", ""
        async for pieces in self.chat.pieces():
            for piece in pieces:
                if piece.text:
                    text += piece.text
                    yield send("response.output_text.delta", **place, delta=piece.text, logprobs=[])
                reason = reason_of(piece.completion)
        yield send("response.output_text.done", **place, text=text, logprobs=[])
        yield send("response.content_part.done", **place, part=_part(text))
        response = self._response(text, reason)
        yield send("response.output_item.done", output_index=0, item=response["output"][0])
        yield send(f"response.{response['status']}", response=response)

    def _item(self, text: str, status: str, content: list[Any]) -> dict[str, Any]:
        return {"type": "message", "id": self.message_id, "status": status, "role": "assistant", "content": content}

    def _response(self, text: str, reason: str) -> dict[str, Any]:
        """Return the response with a text; `reason` is empty while it is in progress."""
        usage, complete = self.chat.usage, reason != "length"
        status = ("completed" if complete else "incomplete") if reason else "in_progress"
        return {
            "id": self.id, "object": "response", "created_at": usage.created, "status": status, "error": None,
            "incomplete_details": None if complete else {"reason": "max_output_tokens"},
            "instructions": self.body.instructions, "max_output_tokens": self.body.max_output_tokens,
            "model": self.chat.served.name,
            "output": [self._item(text, status, [_part(text)])] if reason else [],
            "parallel_tool_calls": False, "tool_choice": "none", "tools": [], "temperature": self.body.temperature,
            "top_p": self.body.top_p, "text": {"format": {"type": "text"}}, "truncation": "disabled", "metadata": {},
            "previous_response_id": None, "store": False,
            "usage": {
                "input_tokens": usage.prompt_tokens, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage.completion_tokens, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            } if reason else None,
        }  # fmt: skip


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
