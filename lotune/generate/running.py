"""Requests that are being answered: the state of each, those that come while others run, and where an answer ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from queue import Empty
from typing import TYPE_CHECKING

import torch

from lotune.generate.prompt_lookup import COOLDOWN, DEFAULT_DRAFT_LENGTH, MAX_DRAFT_LENGTH, NgramIndex, propose_draft
from lotune.generate.requests import Completion, FinishReason, OnToken, Request, RequestCheck, Requests, expand_requests
from lotune.generate.sampling import cut_at_stop, stop_lookback_tokens
from lotune.model.logits import NotFiniteLogitsError, largest_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class RunningRequest:
    """A request under way; it `began` when it was asked for.

    `draft_budget` is the longest draft that may be tried next. Where it is 0, one is tried again when the answer has
    `draft_cooldown_until` tokens.
    """

    index: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    generator: torch.Generator = field(default_factory=torch.Generator)
    began: float = field(default_factory=lambda: time.monotonic())
    trail: NgramIndex = field(default_factory=NgramIndex)
    draft_budget: int = DEFAULT_DRAFT_LENGTH
    draft_cooldown_until: int = 0

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.request.sampling.seed)

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens that are read before the first step: all of the prompt but its last."""
        return self.request.prompt_ids[:-1]

    @property
    def last(self) -> int:
        """The token to read next."""
        return self.ids[-1] if self.ids else self.request.prompt_ids[-1]

    @property
    def length(self) -> int:
        """How many tokens have been read: the place of `last`."""
        return len(self.request.prompt_ids) - 1 + len(self.ids)

    @property
    def max_length(self) -> int:
        """Most tokens that are ever read; the last one of an answer is not."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens - 1

    def draft(self, past: NgramIndex, room: int) -> list[int]:
        """What may come next, from the row itself or `past` ones: at most `room` tokens, and never the last one."""
        if self.draft_budget == 0 and len(self.ids) >= self.draft_cooldown_until:
            self.draft_budget = 1
        most = min(room, self.draft_budget, self.request.max_new_tokens - len(self.ids) - 1)
        if most < 1:
            return []
        known = len(self.trail.ids) - len(self.request.prompt_ids)
        self.trail.extend(self.request.prompt_ids if known < 0 else ())
        self.trail.extend(self.ids[max(0, known) :])
        return propose_draft(self.trail, past, most)

    def update_draft_budget(self, drafted: int, right: int) -> None:
        """Dare more where a whole draft was right, and less where nothing of it was."""
        if drafted and right == drafted:
            self.draft_budget = min(2 * self.draft_budget, MAX_DRAFT_LENGTH)
        elif drafted:
            self.draft_budget = DEFAULT_DRAFT_LENGTH if right else drafted // 2
            self.draft_cooldown_until = len(self.ids) + COOLDOWN


class RequestQueue:
    """Rows as they are asked for: those of a list all at once, those of a queue as they come, until it gives None."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        requests: Requests,
        check: RequestCheck,
        prefix_ids: tuple[int, ...] = (),
    ) -> None:
        """`check(requests, number of the first)` raises for what cannot be answered.

        `prefix_ids` are put before each prompt that has passed it: an adapter's virtual tokens.
        """
        self._tokenizer, self._check, self._count, self._prefix_ids = tokenizer, check, 0, prefix_ids
        self._queue = None if isinstance(requests, Sequence) else requests
        self._rows = self._checked(requests) if isinstance(requests, Sequence) else []

    def take(self, idle: bool) -> list[RunningRequest]:
        """Rows that came since the last call; where nothing else is to do (`idle`) it waits for one, up to the end."""
        if self._queue is None:
            rows, self._rows = self._rows, []
            return rows
        come: list[Request] = []
        while self._queue is not None:
            try:
                request = self._queue.get(block=idle and not come)
            except Empty:
                break
            if request is None:
                self._queue = None
            else:
                come.append(request)
        return self._checked(come)

    def _checked(self, requests: Sequence[Request]) -> list[RunningRequest]:
        self._check(requests, self._count)
        rows = [
            RunningRequest(self._count + n, replace(request, prompt_ids=(*self._prefix_ids, *request.prompt_ids)))
            for n, request in enumerate(expand_requests(self._tokenizer, requests))
        ]
        self._count += len(rows)
        return rows


@dataclass(frozen=True)
class TokenSelector:
    """Chooses tokens and knows when an answer has ended."""

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    on_token: OnToken | None

    def check_deadline(self, row: RunningRequest) -> Completion | None:
        """The answer as it is where its time is up."""
        seconds = row.request.timeout_seconds
        if seconds is None or time.monotonic() - row.began < seconds:
            return None
        return self._completion(row, "deadline")

    def choose(
        self, logits: torch.Tensor, rows: Sequence[RunningRequest], largest: Sequence[float] | None = None
    ) -> list[int]:
        """The next token of each row, from logits (n, V); no end-of-text where the row may not end yet.

        `largest` are the rows' largest logits, where they are known.
        Raises: NotFiniteLogitsError for the first row whose logits are not finite.
        """
        for row, value in zip(rows, largest_logits(logits) if largest is None else largest, strict=True):
            if not isfinite(value):
                where, read = row.request.label or f"request {row.index}", (*row.request.prompt_ids, *row.ids)
                raise NotFiniteLogitsError(where, read, value, row.request.adapter)
        plain, early = logits, [place for place, row in enumerate(rows) if len(row.ids) < row.request.min_new_tokens]
        if early:
            logits = logits.clone()
            for place in early:
                ends = (*self.eos_token_ids, *rows[place].request.stop_ids)
                logits[place, [id for id in ends if id < logits.shape[-1]]] = float("-inf")
        chosen: list[int] = logits.argmax(-1).tolist()
        for place, row in enumerate(rows):
            request = row.request
            if not request.sampling.is_greedy:
                seen = [id for id in (*request.prompt_ids, *row.ids) if id < logits.shape[-1]]  # no virtual tokens
                chosen[place] = request.sampling.choose(logits[place], seen, row.generator)
            if request.logprobs:
                row.logprobs.append(float(plain[place].float().log_softmax(-1)[chosen[place]]))
        return chosen

    def append(self, row: RunningRequest, token: int) -> Completion | None:
        """Add a token to an answer; the answer where it has ended."""
        if token in self.eos_token_ids or token in row.request.stop_ids:
            return self._completion(row, "eos")
        row.ids.append(token)
        if self.on_token is not None and self.on_token(row.index, token):
            return self._completion(row, "cancelled")
        stop = row.request.stop
        if stop and cut_at_stop(self._text(row.ids[-stop_lookback_tokens(stop) :]), stop)[1]:
            completion = self._completion(row, "length")
            if completion.finish_reason == "stop":
                return completion
        return (
            self._completion(row, "length") if len(row.ids) == row.request.max_new_tokens else self.check_deadline(row)
        )

    def _completion(self, row: RunningRequest, finish_reason: FinishReason) -> Completion:
        text, stopped = cut_at_stop(self._text(row.ids), row.request.stop)
        return Completion(
            text, tuple(row.ids), "stop" if stopped else finish_reason, tuple(row.logprobs[: len(row.ids)])
        )

    def _text(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text
