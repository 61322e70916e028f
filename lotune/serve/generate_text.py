"""POST /generate: the answer to one question as a stream of plain text, without the question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from lotune.serve.chat import ChatCall
from lotune.serve.errors import ApiError
from lotune.serve.gateway import Gateway
from lotune.serve.protocol import ChatRequest, GenerateRequest, Message


class GenerateCall:
    """One question in the model's template."""

    def __init__(self, gateway: Gateway, body: GenerateRequest) -> None:
        """Render and encode the question. Raises: ApiError for one that cannot be answered."""
        message = Message(role="user", content=body.prompt)
        request = ChatRequest(
            model=body.model, messages=[message], max_tokens=body.max_new_tokens, temperature=body.temperature,
            top_k=body.top_k,
        )  # fmt: skip
        self.chat = ChatCall(gateway, request)

    async def start(self) -> None:
        """Submit the request."""
        await self.chat.start()

    def close(self) -> None:
        """Free the place of the answer if it has not ended."""
        self.chat.close()

    async def whole(self) -> dict[str, Any]:
        """Return the text alone."""
        chat = await self.chat.whole()
        return {"text": chat["choices"][0]["message"]["content"]}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the text as it comes."""
        async for pieces in self.chat.pieces():
            if text := "".join(piece.text for piece in pieces):
                yield text.encode()

    @staticmethod
    def failed(error: ApiError) -> bytes:
        """Return what follows the text if the answer fails."""
        return f"\n[{error.message}]\n".encode()
