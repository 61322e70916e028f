"""Log-probabilities of tokens in OpenAI's two forms: that of chats, and that of completions, as lm_eval reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lotune.generate.detokenizer import StreamingDetokenizer
from lotune.generate.loglikelihood import ScoredToken
from lotune.generate.requests import TokenEvent, TopLogprobs
from lotune.serve.models import ServedModel


def chat_logprobs(served: ServedModel, tokens: Sequence[TokenEvent]) -> dict[str, Any]:
    """Return the `logprobs` of a chat's choice."""
    return {"content": [_chat_token(served, token.token_id, token.logprob, token.top_logprobs) for token in tokens]}


def _chat_token(served: ServedModel, id: int, logprob: float | None, top: TopLogprobs | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"token": served.token_text(id), "logprob": logprob, "bytes": list(served.bytes_of(id))}
    if top is not None:
        entry["top_logprobs"] = [_chat_token(served, other, value, None) for other, value in top]
    return entry


@dataclass
class CompletionLogprobs:
    """Builds the `logprobs` of completions piece by piece; `offset` is the position of the next token in the text."""

    served: ServedModel
    offset: int = 0
    _pieces: StreamingDetokenizer = field(init=False)

    def __post_init__(self) -> None:
        self._pieces = StreamingDetokenizer(self.served.tokenizer)

    def prompt(self, ids: Sequence[int], scores: Sequence[ScoredToken]) -> dict[str, Any]:
        """Return the `logprobs` of a prompt's tokens; nothing is known of the first one."""
        first = self._entry([ids[0]], [None], [None])
        rest = self._entry(ids[1:], [score.logprob for score in scores], [score.top_logprobs for score in scores])
        return {name: first[name] + rest[name] for name in first}

    def answer(self, tokens: Sequence[TokenEvent]) -> dict[str, Any]:
        """Return the `logprobs` of the next tokens of the answer."""
        ids, logprobs = [token.token_id for token in tokens], [token.logprob for token in tokens]
        return self._entry(ids, logprobs, [token.top_logprobs for token in tokens])

    def _entry(
        self, ids: Sequence[int], logprobs: Sequence[float | None], tops: Sequence[TopLogprobs | None]
    ) -> dict[str, Any]:
        offsets = []
        for id in ids:
            offsets.append(self.offset)
            self.offset += len(self._pieces.add_token(id))
        return {
            "tokens": [self.served.token_text(id) for id in ids],
            "token_logprobs": list(logprobs),
            "top_logprobs": [
                None if top is None else self._texts(id, logprob, top)
                for id, logprob, top in zip(ids, logprobs, tops, strict=True)
            ],
            "text_offset": offsets,
        }

    def _texts(self, id: int, logprob: float | None, top: TopLogprobs) -> dict[str, float | None]:
        """Return log-probabilities by text, with that of the token itself; the likelier of two equal texts stays."""
        texts: dict[str, float | None] = {}
        for other, value in top:
            texts.setdefault(self.served.token_text(other), value)
        texts.setdefault(self.served.token_text(id), logprob)
        return texts


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the `logprobs` of several pieces of a text as one."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}
