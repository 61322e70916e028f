"""POST /v1/completions: the bare model continues texts or token ids, and scores prompts (`echo`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lotune.generate.loglikelihood import Continuation, ScoredToken
from lotune.generate.requests import Completion, Request
from lotune.serve.engine_requests import FINISH_REASONS, answer_settings, engine_requests
from lotune.serve.errors import ApiError, invalid
from lotune.serve.gateway import Answers, Gateway, Piece
from lotune.serve.grammars import grammar_of
from lotune.serve.logprobs import CompletionLogprobs, joined
from lotune.serve.models import ServedModel
from lotune.serve.protocol import CompletionRequest
from lotune.serve.streaming import DONE, event
from lotune.serve.usage import Usage, new_id


@dataclass
class _Choice:
    """One answer in the making: its prompt, and what was sent of it."""

    prompt_ids: Sequence[int]
    prompt_text: str
    logprobs: CompletionLogprobs
    scores: Sequence[ScoredToken] = ()
    text: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = ""


class CompletionCall:
    """One request for completions, from its prompts to the response."""

    def __init__(self, gateway: Gateway, body: CompletionRequest) -> None:
        """Encode the prompts. Raises: ApiError for a request that cannot be answered."""
        self.gateway, self.body = gateway, body
        self.served: ServedModel = gateway.models.named(body.model)
        self.scores_prompt = bool(body.echo) and body.logprobs is not None
        prompts = [self._encoded(prompt) for prompt in body.prompts]
        samples = body.n or 1
        if len(prompts) * samples > gateway.limits.max_prompts:
            raise invalid(f"{len(prompts) * samples} answers, at most {gateway.limits.max_prompts} a request", "prompt")
        grammar = grammar_of(self.served, body.response_format)
        settings = answer_settings(body, body.max_tokens, (), body.logprobs, grammar)
        self.requests: list[Request] = []
        self.choices: list[_Choice] = []
        for ids, text in prompts:
            self.requests += engine_requests(self.served, ids, settings, gateway.limits)
            self.choices += [self._choice(ids, text) for _ in range(samples)]
        self.usage = Usage(sum(len(ids) for ids, _ in prompts))
        self.id = new_id("cmpl")
        self.answers: Answers | None = None

    def _encoded(self, prompt: str | list[int]) -> tuple[list[int], str]:
        if isinstance(prompt, str):
            self.served.check_size(prompt)
            return self.served.encode(prompt, special=self.body.add_special_tokens), prompt
        # checked here, as decoding an unknown id fails before the engine sees it
        if max(prompt) >= self.served.vocab_size:
            last = self.served.vocab_size - 1
            raise invalid(f"a token id of {max(prompt)}, the vocabulary ends at {last}", "prompt")
        return prompt, self.served.decode(prompt, special=True) if self.body.echo else ""

    def _choice(self, ids: Sequence[int], text: str) -> _Choice:
        return _Choice(ids, text, CompletionLogprobs(self.served))

    async def start(self) -> None:
        """Score the prompts if their log-probabilities are asked for, and submit the requests."""
        if self.scores_prompt:
            await self._score_prompts()
        if self.body.max_tokens != 0:
            self.answers = self.gateway.submit(self.served, self.requests)

    async def _score_prompts(self) -> None:
        rows = {tuple(choice.prompt_ids): None for choice in self.choices if len(choice.prompt_ids) > 1}
        continuations = [Continuation(ids[:1], ids[1:]) for ids in rows]
        scored = await self.gateway.score(self.served, continuations, self.body.logprobs or 0) if rows else []
        scores = dict(zip(rows, scored, strict=True))
        for choice in self.choices:
            choice.scores = scores.get(tuple(choice.prompt_ids), ())

    async def changes(self) -> AsyncIterator[list[tuple[int, str, dict[str, Any] | None, str]]]:
        """Yield what is new: number of the choice, text, log-probabilities and, at its end, the reason."""
        if self.body.echo:
            yield [
                (number, choice.prompt_text, self._prompt_logprobs(choice), "")
                for number, choice in enumerate(self.choices)
            ]
        if self.answers is None:
            yield [(number, "", None, "length") for number in range(len(self.choices))]
            return
        async for pieces in self.answers.pieces():
            self.usage.add([piece.completion for piece in pieces])
            yield [self._change(piece) for piece in pieces]

    def _prompt_logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        if not self.scores_prompt:
            choice.logprobs.offset = len(choice.prompt_text)
            return None
        return choice.logprobs.prompt(choice.prompt_ids, choice.scores)

    def _change(self, piece: Piece) -> tuple[int, str, dict[str, Any] | None, str]:
        logprobs = None
        if self.body.logprobs is not None and piece.tokens:
            logprobs = self.choices[piece.number].logprobs.answer(piece.tokens)
        return piece.number, piece.text, logprobs, reason_of(piece.completion)

    def close(self) -> None:
        """Free the places of answers that have not ended."""
        if self.answers is not None:
            self.answers.close()

    async def whole(self) -> dict[str, Any]:
        """Return the response that does not stream."""
        async for changes in self.changes():
            for number, text, logprobs, reason in changes:
                choice = self.choices[number]
                choice.text += text
                choice.parts += [logprobs] if logprobs else []
                choice.finish_reason = reason or choice.finish_reason
        if not all(choice.finish_reason for choice in self.choices):
            raise ApiError(499, "the client went away")
        choices = [
            {
                "index": number, "text": choice.text, "finish_reason": choice.finish_reason,
                "logprobs": joined(choice.parts) if choice.parts else None,
            }
            for number, choice in enumerate(self.choices)
        ]  # fmt: skip
        return {**self._head(), "choices": choices, "usage": self.usage.body()}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events."""
        head = self._head()
        async for changes in self.changes():
            for number, text, logprobs, reason in changes:
                if text or logprobs or reason:
                    choice = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason or None}
                    yield event({**head, "choices": [choice]})
        if self.body.includes_usage:
            yield event({**head, "choices": [], "usage": self.usage.body()})
        yield DONE

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.usage.created, "model": self.served.name
        }  # fmt: skip


def reason_of(completion: Completion | None) -> str:
    """Return OpenAI's reason for the end of an answer, empty if it has not ended."""
    return FINISH_REASONS[completion.finish_reason] if completion else ""
