"""Requests to the engine, made of the fields of a request to the API."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lotune.generate.requests import Grammar, Request
from lotune.generate.sampling import Sampling
from lotune.serve.errors import ApiError, invalid
from lotune.serve.limits import Limits
from lotune.serve.models import ServedModel
from lotune.serve.protocol import SamplingFields

FINISH_REASONS = {"eos": "stop", "stop": "stop", "length": "length", "deadline": "length", "cancelled": "stop"}
"""OpenAI's reason for each of the engine's."""


@dataclass(frozen=True)
class AnswerSettings:
    """The settings of each answer to a request: `max_tokens` of None is what the context leaves."""

    sampling: Sampling
    samples: int
    max_tokens: int | None
    stop: tuple[str, ...]
    logprobs: bool
    top_logprobs: int
    grammar: Grammar | None = None
    min_tokens: int | None = 0
    """No end before so many tokens; None: not before the longest answer."""


def answer_settings(
    fields: SamplingFields,
    max_tokens: int | None,
    stop: Sequence[str],
    top_logprobs: int | None,
    grammar: Grammar | None = None,
) -> AnswerSettings:
    """Return the settings of a request's answers; `top_logprobs` of None asks for no log-probabilities."""
    seed = fields.seed if fields.seed is not None else secrets.randbits(63)
    top_k = fields.top_k if fields.top_k and fields.top_k > 0 else None
    temperature = 1.0 if fields.temperature is None else fields.temperature
    sampling = Sampling(temperature, top_k, fields.top_p or 1.0, fields.repetition_penalty or 1.0, seed)
    return AnswerSettings(
        sampling, fields.n or 1, max_tokens, (*fields.stop_texts, *stop), top_logprobs is not None, top_logprobs or 0,
        grammar, None if fields.ignore_eos else fields.min_tokens or 0,
    )  # fmt: skip


def engine_requests(served: ServedModel, ids: Sequence[int], settings: AnswerSettings, limits: Limits) -> list[Request]:
    """Return one request for each answer to a prompt.

    An answer is as long as asked for, and never longer than the context or the server's limit leave.

    Raises: ApiError for a prompt that is empty or too long.
    """
    if not ids:
        raise invalid("the prompt is empty", "prompt")
    limit = limits.max_prompt_tokens
    if limit is not None and len(ids) > limit:
        raise ApiError(
            400, f"the prompt has {len(ids)} tokens, this server takes at most {limit}", param="prompt",
            code="context_length_exceeded",
        )  # fmt: skip
    left = served.context - len(ids)
    if left < 1:
        message = f"the prompt has {len(ids)} tokens, and the model's context of {served.context} leaves no room"
        raise ApiError(400, message, param="prompt", code="context_length_exceeded")
    asked = [count for count in (left, settings.max_tokens, limits.max_new_tokens) if count is not None]
    longest = min(asked)
    least = longest if settings.min_tokens is None else min(settings.min_tokens, longest)
    request = Request(
        tuple(ids), longest, least, settings.stop, sampling=settings.sampling, logprobs=settings.logprobs,
        timeout_seconds=limits.request_seconds, adapter=served.adapter, top_logprobs=settings.top_logprobs,
        grammar=settings.grammar,
    )  # fmt: skip
    if settings.sampling.temperature == 0:  # all are the same, but whoever asks for several gets several
        return [request] * settings.samples
    return list(replace(request, samples=settings.samples).expand_samples())
