"""POST /v1/chat/completions: the answer to a conversation in the model's own template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from lotune.generate.requests import TokenEvent
from lotune.serve.completions import reason_of
from lotune.serve.engine_requests import answer_settings, engine_requests
from lotune.serve.errors import ApiError, invalid
from lotune.serve.gateway import Answers, Gateway, Piece
from lotune.serve.grammars import grammar_of
from lotune.serve.logprobs import chat_logprobs
from lotune.serve.models import ServedModel
from lotune.serve.protocol import ChatRequest
from lotune.serve.streaming import DONE, event
from lotune.serve.usage import Usage, new_id


class ChatCall:
    """One request for the answer to a conversation, from its messages to the response."""

    def __init__(self, gateway: Gateway, body: ChatRequest) -> None:
        """Render and encode the conversation. Raises: ApiError for one that cannot be answered."""
        self.gateway, self.body = gateway, body
        self.served: ServedModel = gateway.models.named(body.model)
        if body.top_logprobs and not body.logprobs:
            raise invalid("top_logprobs needs logprobs=true", "top_logprobs")
        ids = self.served.render([message.plain() for message in body.messages])
        grammar = grammar_of(self.served, body.response_format)
        top = (body.top_logprobs or 0) if body.logprobs else None
        settings = answer_settings(
            body, body.max_completion_tokens or body.max_tokens, self.served.form.stop, top, grammar
        )
        self.requests = engine_requests(self.served, ids, settings, gateway.limits)
        self.usage = Usage(len(ids))
        self.id = new_id("chatcmpl")
        self.answers: Answers | None = None

    async def start(self) -> None:
        """Submit the requests."""
        self.answers = self.gateway.submit(self.served, self.requests)

    def close(self) -> None:
        """Free the places of answers that have not ended."""
        if self.answers is not None:
            self.answers.close()

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """Yield what is new, and count the tokens of answers that end."""
        assert self.answers is not None
        async for pieces in self.answers.pieces():
            self.usage.add([piece.completion for piece in pieces])
            yield pieces

    async def whole(self) -> dict[str, Any]:
        """Return the response that does not stream."""
        count = len(self.requests)
        texts, reasons = [""] * count, [""] * count
        tokens: list[list[TokenEvent]] = [[] for _ in range(count)]
        async for pieces in self.pieces():
            for piece in pieces:
                texts[piece.number] += piece.text
                tokens[piece.number] += piece.tokens
                reasons[piece.number] = reason_of(piece.completion)
        if not all(reasons):
            raise ApiError(499, "the client went away")
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": chat_logprobs(self.served, tokens[number]) if self.body.logprobs else None,
                "finish_reason": reasons[number],
            }
            for number, text in enumerate(texts)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage.body()}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events: the role of each answer first, then its text in pieces."""
        head = self._head("chat.completion.chunk")
        for number in range(len(self.requests)):
            delta = {"role": "assistant", "content": ""}
            yield event(
                {**head, "choices": [{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}]}
            )
        async for pieces in self.pieces():
            for piece in pieces:
                choice = self._chunk(piece)
                if choice is not None:
                    yield event({**head, "choices": [choice]})
        if self.body.includes_usage:
            yield event({**head, "choices": [], "usage": self.usage.body()})
        yield DONE

    def _chunk(self, piece: Piece) -> dict[str, Any] | None:
        """Return the choice of a chunk, or None if there is nothing to tell."""
        logprobs = chat_logprobs(self.served, piece.tokens) if self.body.logprobs and piece.tokens else None
        if not (piece.text or logprobs or piece.completion):
            return None
        delta = {"content": piece.text} if piece.text else {}
        reason = reason_of(piece.completion) or None
        return {"index": piece.number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.usage.created, "model": self.served.name}
