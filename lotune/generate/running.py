"""The state of running requests, the choice of their next tokens, and the end of their answers.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

import torch

from lotune.generate.prompt_lookup import COOLDOWN, DEFAULT_DRAFT_LENGTH, MAX_DRAFT_LENGTH, NgramIndex, propose_draft
from lotune.generate.requests import Completion, FinishReason, GrammarState, OnToken, Request, TopLogprobs
from lotune.generate.sampling import cut_at_stop, stop_lookback_tokens
from lotune.model.logits import NotFiniteLogitsError, largest_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class RunningRequest:
    """A request with its answer so far; `began` is the time of its submission, in seconds of the monotonic clock.

    `outcome` is the answer or the error that ended the request, None until then. `on_end` is called with the row when
    the outcome is set. A `cancelled` row ends before the next step. `draft_budget` is the maximum length of the next
    draft; 0 means no draft until the answer has `draft_cooldown_until` tokens.
    """

    index: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    grammar: GrammarState | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)
    began: float = field(default_factory=lambda: time.monotonic())
    ngrams: NgramIndex = field(default_factory=NgramIndex)
    draft_budget: int = DEFAULT_DRAFT_LENGTH
    draft_cooldown_until: int = 0
    on_token: OnToken | None = None
    on_end: Callable[[RunningRequest], None] | None = None
    cancelled: bool = False
    outcome: Completion | Exception | None = None

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.request.sampling.seed)
        if self.request.grammar is not None:
            self.grammar = self.request.grammar.start()

    def finish(self, outcome: Completion | Exception) -> None:
        """Set the outcome and report it."""
        self.outcome = outcome
        if self.on_end is not None:
            self.on_end(self)

    def has_news(self, read: int) -> bool:
        """Return whether the row has ended or has more than `read` tokens."""
        return self.outcome is not None or len(self.ids) > read

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens to compute before the first step: all of the prompt except its last one."""
        return self.request.prompt_ids[:-1]

    @property
    def last(self) -> int:
        """The input token of the next step."""
        return self.ids[-1] if self.ids else self.request.prompt_ids[-1]

    @property
    def length(self) -> int:
        """The number of computed tokens, which is the position of `last`."""
        return len(self.request.prompt_ids) - 1 + len(self.ids)

    @property
    def max_length(self) -> int:
        """The maximum number of computed tokens; the last token of an answer is never an input."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens - 1

    def draft(self, past: NgramIndex, max_tokens: int) -> list[int]:
        """Return at most `max_tokens` tokens that may come next, looked up in the row itself or in `past` rows.

        The draft leaves room for one more token, which every step chooses.
        """
        if self.draft_budget == 0 and len(self.ids) >= self.draft_cooldown_until:
            self.draft_budget = 1
        length = min(max_tokens, self.draft_budget, self.request.max_new_tokens - len(self.ids) - 1)
        if length < 1:
            return []
        # the index is filled on the first draft, so that rows without drafts do not pay for it
        indexed = len(self.ngrams.ids) - len(self.request.prompt_ids)
        self.ngrams.extend(self.request.prompt_ids if indexed < 0 else ())
        self.ngrams.extend(self.ids[max(0, indexed) :])
        return propose_draft(self.ngrams, past, length)

    def update_draft_budget(self, drafted: int, accepted: int) -> None:
        """Double the budget if a whole draft was accepted, halve it if none of it was, and reset it otherwise."""
        if drafted and accepted == drafted:
            self.draft_budget = min(2 * self.draft_budget, MAX_DRAFT_LENGTH)
        elif drafted:
            self.draft_budget = DEFAULT_DRAFT_LENGTH if accepted else drafted // 2
            self.draft_cooldown_until = len(self.ids) + COOLDOWN


@dataclass(frozen=True)
class TokenSelector:
    """Chooses the tokens of answers and ends those that are complete."""

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]

    def end_if_late(self, row: RunningRequest) -> bool:
        """End a row with the answer so far if its time is up; return whether it was."""
        seconds = row.request.timeout_seconds
        if seconds is None or time.monotonic() - row.began < seconds:
            return False
        self.finish(row, "deadline")
        return True

    def finish(self, row: RunningRequest, finish_reason: FinishReason) -> None:
        """End a row with the answer so far; the reason is `stop` if the answer contains a stop text."""
        row.finish(self._completion(row, finish_reason))

    def advance(
        self, logits: torch.Tensor, rows: Sequence[RunningRequest], largest: Sequence[float] | None = None
    ) -> list[int]:
        """Choose the next token of each row from logits (n, V), end complete rows, and return the tokens, -1 for none.

        `largest` has the largest logit of each row, if the caller knows them. A row that must not end yet gets no
        end-of-text. A row whose logits are not finite, or whose settings or callback raise, ends with an error, and the
        other rows continue.
        """
        masked, chosen = self._greedy(logits, rows)
        for index, value in enumerate(largest_logits(logits) if largest is None else largest):
            row = rows[index]
            try:
                if not isfinite(value):
                    name, read = row.request.label or f"request {row.index}", (*row.request.prompt_ids, *row.ids)
                    raise NotFiniteLogitsError(name, read, value, row.request.adapter)
                allowed = masked[index] if row.grammar is None else self._allowed(row, row.grammar, masked[index])
                if not row.request.sampling.is_greedy:
                    tokens = (*row.request.prompt_ids, *row.ids)
                    seen = [id for id in tokens if id < logits.shape[-1]]  # no virtual tokens
                    chosen[index] = row.request.sampling.choose(allowed, seen, row.generator)
                elif row.grammar is not None:
                    chosen[index] = int(allowed.argmax())
                if row.request.logprobs:
                    _record_logprobs(row, logits[index], chosen[index])
                self._append(row, chosen[index])
            except Exception as error:  # of this row only, whatever its type
                chosen[index] = -1
                row.finish(error)
        return chosen

    def _greedy(self, logits: torch.Tensor, rows: Sequence[RunningRequest]) -> tuple[torch.Tensor, list[int]]:
        """Return logits (n, V), with ends at -inf for rows that must not end yet, and the best token of each row."""
        early = [index for index, row in enumerate(rows) if len(row.ids) < row.request.min_new_tokens]
        if early:
            logits = logits.clone()  # the log-probabilities need them unchanged
            for index in early:
                ends = (*self.eos_token_ids, *rows[index].request.stop_ids)
                logits[index, [id for id in ends if id < logits.shape[-1]]] = float("-inf")
        best: list[int] = logits.argmax(-1).tolist()  # (n, V) -> (n,), moved to the CPU at once for all rows
        return logits, best

    def _allowed(self, row: RunningRequest, grammar: GrammarState, logits: torch.Tensor) -> torch.Tensor:
        """Return logits (V,) with -inf for the tokens that a row's grammar forbids; ends follow complete texts only."""
        allowed = grammar.mask(logits)
        if grammar.may_end:
            ends = [id for id in (*self.eos_token_ids, *row.request.stop_ids) if id < logits.shape[-1]]
            allowed[ends] = logits[ends]
        return allowed

    def _append(self, row: RunningRequest, token: int) -> None:
        """Add a token to an answer, and end the answer if it is complete."""
        if token in self.eos_token_ids or token in row.request.stop_ids:
            return self.finish(row, "eos")
        row.ids.append(token)
        if row.grammar is not None:
            row.grammar.accept(token)
            if row.grammar.must_end:
                return self.finish(row, "eos")
        if row.on_token is not None and row.on_token(token):
            return self.finish(row, "cancelled")
        stop = row.request.stop
        # the last tokens first, as decoding the whole answer at each token would take quadratic time
        if stop and cut_at_stop(self._text(row.ids[-stop_lookback_tokens(stop) :]), stop)[1]:
            completion = self._completion(row, "length")
            if completion.finish_reason == "stop":
                return row.finish(completion)
        if len(row.ids) == row.request.max_new_tokens:
            return self.finish(row, "length")
        self.end_if_late(row)
        return None

    def _completion(self, row: RunningRequest, finish_reason: FinishReason) -> Completion:
        text, stopped = cut_at_stop(self._text(row.ids), row.request.stop)
        logprobs = tuple(row.logprobs[: len(row.ids)])
        top_logprobs = tuple(row.top_logprobs[: len(row.ids)])
        return Completion(text, tuple(row.ids), "stop" if stopped else finish_reason, logprobs, top_logprobs)

    def _text(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _record_logprobs(row: RunningRequest, logits: torch.Tensor, token: int) -> None:
    """Add the log-probability of a token to a row, and those of the likeliest tokens, from logits (V,)."""
    logprobs = logits.float().log_softmax(-1)
    row.logprobs.append(float(logprobs[token]))
    if row.request.top_logprobs:
        best = logprobs.topk(min(row.request.top_logprobs, len(logprobs)))
        row.top_logprobs.append(tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
