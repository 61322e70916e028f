"""Log-probabilities of given continuations of prompts.

Shapes: n rows of a pass, T tokens of a row in a pass, L real tokens of all rows, K tokens of a continuation,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch

from lotune.errors import DataError
from lotune.generate.backends import slot_batcher
from lotune.generate.continuous_batching import PREFILL_TOKENS, ContinuousBatcher
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.prefix_sharing import common_prefix_length
from lotune.generate.requests import Request, TopLogprobs
from lotune.generate.running import RunningRequest
from lotune.model.eval_mode import eval_mode
from lotune.model.loading import declared_context_length
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.parts import token_reader, virtual_ids

MAX_LOGITS = 2**25
"""Maximum number of logits in one pass: 128 MiB in float32."""
MIN_SHARED_RATIO = 0.25
"""The fraction of the prompts' tokens that must be shared for slots to be faster than padded batches."""


@dataclass(frozen=True)
class Continuation:
    """Tokens that may follow a prompt, at least one of each; `where` names the row in messages."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    where: str = ""


class ScoredToken(NamedTuple):
    """The log-probability of a token, in nats, and those of the likeliest tokens in its place."""

    logprob: float
    top_logprobs: TopLogprobs


Score = TypeVar("Score")
ReadScores = Callable[[Continuation, torch.Tensor], Score]
"""Return what a caller asks for of a continuation and its logits (K, V)."""


class LogLikelihood:
    """A model that scores continuations in one call or more; its weights must not change between calls."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @cached_property
    def _batcher(self) -> ContinuousBatcher | None:
        return slot_batcher(self.model)

    def reset(self) -> None:
        """Forget the prompts read so far, and free their memory."""
        if "_batcher" in vars(self) and self._batcher is not None:
            self._batcher.reset()

    @torch.inference_mode()
    def score(self, rows: Sequence[Continuation], *, batch_tokens: int) -> list[tuple[float, ...]]:
        """Return the log-probability, in nats, of each token of each continuation, in the order of the rows.

        If the prompts share much (the options of a question, the examples before it), the shared tokens are read once.
        Otherwise rows of similar length are computed together, padded at their ends, which no earlier token sees. In
        float32 the figures do not depend on the batch.

        Raises: DataError for a row without prompt or continuation, or longer than the model's context;
        NotFiniteLogitsError if logits are not finite.
        """
        return self._traced_scores(rows, batch_tokens, _token_logprobs, None)

    @torch.inference_mode()
    def score_tokens(
        self, rows: Sequence[Continuation], *, top: int, batch_tokens: int, adapter: str | None = None
    ) -> list[list[ScoredToken]]:
        """Return each token of each continuation with its log-probability and those of the `top` likeliest tokens.

        `adapter` is that of a `Request`.

        Raises: the errors of `score`.
        """

        def read(row: Continuation, logits: torch.Tensor) -> list[ScoredToken]:
            values = _token_logprobs(row, logits)
            best = logits.float().log_softmax(-1).topk(min(top, logits.shape[-1]))  # (K, V) -> (K, top)
            tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return [
                ScoredToken(value, tuple(zip(*pair, strict=True))) for value, pair in zip(values, tops, strict=True)
            ]

        return self._traced_scores(rows, batch_tokens, read, adapter)

    def _traced_scores(
        self, rows: Sequence[Continuation], batch_tokens: int, read: ReadScores[Score], adapter: str | None
    ) -> list[Score]:
        try:
            return self._score(rows, batch_tokens, read, adapter)
        except NotFiniteLogitsError as error:
            raise error.traced(self.model) from None

    def _score(
        self, rows: Sequence[Continuation], batch_tokens: int, read: ReadScores[Score], adapter: str | None
    ) -> list[Score]:
        model = token_reader(self.model)
        _check(self.model, rows)
        prefix_ids = virtual_ids(self.model)
        rows = [replace(row, prompt_ids=(*prefix_ids, *row.prompt_ids)) for row in rows] if prefix_ids else rows
        order = sorted(range(len(rows)), key=lambda index: rows[index].prompt_ids)
        shares_enough = _shared_token_ratio([rows[index].prompt_ids for index in order]) >= MIN_SHARED_RATIO
        vocabulary = model.config.get_text_config().vocab_size
        batcher = self._batcher if shares_enough and adapter is None else None
        scores: dict[int, Score] = {}
        if batcher is not None:
            with batcher.session():
                for indices in _groups_by_prompt(rows, order, batch_tokens, vocabulary):
                    group = [rows[index] for index in indices]
                    logits = continuation_logits(batcher, [(row.prompt_ids, row.ids) for row in group])
                    scores |= zip(indices, map(read, group, logits), strict=True)
        else:
            with eval_mode(model):
                for indices in _groups_by_length(rows, batch_tokens, vocabulary):
                    group = [rows[index] for index in indices]
                    scores |= zip(indices, _score_padded(model, group, read, adapter), strict=True)
        return [scores[index] for index in range(len(rows))]


def continuation_logits(
    batcher: ContinuousBatcher, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> Sequence[torch.Tensor]:
    """Return logits (K, V) of the ids that follow a prompt, for rows of (prompt, ids); each prompt is read once.

    Each prompt and each row takes a slot. The first prompt stays in its slot for the next call. No request may run.
    """
    slots, prompts = batcher.slots, list(dict.fromkeys(prompt for prompt, _ in rows))
    num_slots, capacity = len(prompts) + len(rows), max(len(prompt) + len(ids) for prompt, ids in rows)
    if num_slots > slots.slots or capacity > slots.capacity:
        slots.resize(num_slots, capacity, 1)
    requests = [RunningRequest(number, Request(prompt, 1)) for number, prompt in enumerate(prompts)]
    prompts_per_pass = max(1, PREFILL_TOKENS // capacity)
    try:
        for first in range(0, len(requests), prompts_per_pass):
            batcher.prefill(requests[first : first + prompts_per_pass])
        slot_of = {prompts[row.index]: slot for slot, row in enumerate(batcher.running)}
    finally:
        batcher.running.clear()
    for slot, (prompt, _) in enumerate(rows, len(prompts)):
        slots.copy(slot_of[prompt], slot, len(prompt) - 1)
    lengths = [len(ids) for _, ids in rows]
    padded_length = max(lengths)
    # (n, T): a token's logits follow the token before it, so the row begins with the end of its prompt
    input_ids = [[prompt[-1], *ids[:-1], *[0] * (padded_length - len(ids))] for prompt, ids in rows]
    positions = slots.position_ids([len(prompt) - 1 for prompt, _ in rows], padded_length)  # (n, T)
    inputs = ForwardInput(len(prompts), torch.tensor(input_ids, device=slots.device), positions, capacity - 1, lengths)
    logits: Sequence[torch.Tensor] = slots.logits(inputs, keep=None).split(lengths)  # (L, V) -> n times (K, V)
    return logits


def _shared_token_ratio(prompts: Sequence[tuple[int, ...]]) -> float:
    """Return the fraction of the tokens of sorted prompts that they share with the prompt before them.

    >>> _shared_token_ratio([tuple(range(40)), tuple(range(40)), (7,) * 20])
    0.39
    """
    shared = sum(common_prefix_length(a[:-1], b[:-1]) for a, b in pairwise(prompts))
    return shared / max(1, sum(map(len, prompts)))


def _groups_by_prompt(
    rows: Sequence[Continuation], order: Sequence[int], batch_tokens: int, vocabulary: int
) -> Iterator[list[int]]:
    """Yield groups of row indices in the order of their prompts, within the bounds on slots and logits."""
    group: list[int] = []
    slots = longest = longest_continuation = 0
    for index in order:
        row = rows[index]
        length = len(row.prompt_ids) + len(row.ids)
        # a slot for the row, and one for its prompt if the row before has another
        slots += 1 + (not group or row.prompt_ids != rows[group[-1]].prompt_ids)
        longest, longest_continuation = max(longest, length), max(longest_continuation, len(row.ids))
        logits = (len(group) + 1) * longest_continuation * vocabulary
        if group and (slots * longest > batch_tokens or logits > MAX_LOGITS):
            yield group
            group, slots, longest, longest_continuation = [], 2, length, len(row.ids)
        group.append(index)
    if group:
        yield group


def _token_logprobs(row: Continuation, logits: torch.Tensor) -> tuple[float, ...]:
    """Return the log-probability of each token of a continuation, in nats, from logits (K, V)."""
    ids = torch.tensor(row.ids, device=logits.device)
    # (K, V) -> (K, 1) -> (K,)
    values: list[float] = logits.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0].tolist()
    for index, value in enumerate(values):
        if math.isnan(value):  # of any logits that are NaN or +inf, or all -inf
            read, largest = (*row.prompt_ids, *row.ids[:index]), float(logits[index].max())
            raise NotFiniteLogitsError(row.where or "a continuation", read, largest)
    return tuple(values)


def _score_padded(
    model: Any, rows: Sequence[Continuation], read: ReadScores[Score], adapter: str | None
) -> Iterator[Score]:
    """Yield what is read of each row, computed in one padded batch."""
    # the last token of a row is left out, as its logits would predict a token beyond the continuation
    inputs = [(*row.prompt_ids, *row.ids[:-1]) for row in rows]
    padded_length = max(map(len, inputs))
    ids = torch.tensor([[*row, *[0] * (padded_length - len(row))] for row in inputs], device=model.device)  # (n, T)
    mask = torch.tensor([[1] * len(row) + [0] * (padded_length - len(row)) for row in inputs], device=model.device)
    names = {} if adapter is None else {"adapter_names": [adapter] * len(rows)}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **names).logits  # (n, T, V)
    for row, row_logits in zip(rows, logits, strict=True):
        first = len(row.prompt_ids) - 1
        yield read(row, row_logits[first : first + len(row.ids)])  # (T, V) -> (K, V)


def _groups_by_length(rows: Sequence[Continuation], batch_tokens: int, vocabulary: int) -> Iterator[list[int]]:
    """Yield groups of indices of rows of similar length, within the bounds on tokens and logits."""
    lengths = [len(row.prompt_ids) + len(row.ids) for row in rows]
    max_tokens = max(1, min(batch_tokens, MAX_LOGITS // vocabulary))
    group: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: (-lengths[index], index)):
        if group and (len(group) + 1) * lengths[group[0]] > max_tokens:  # the first row is the longest
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _check(model: Any, rows: Sequence[Continuation]) -> None:
    """Raise DataError for a row without prompt or continuation, or longer than the model's context."""
    declared = declared_context_length(model.config)
    context = None if declared is None else declared - len(virtual_ids(model))
    for number, row in enumerate(rows):
        where, length = row.where or f"continuation {number}", len(row.prompt_ids) + len(row.ids)
        if not row.prompt_ids or not row.ids:
            raise DataError(where, "has no prompt or no continuation", "at least one token of each")
        if context is not None and 0 < context < length:
            raise DataError(where, f"has {length} tokens", f"at most {context}, the model's context", "shorten it")
