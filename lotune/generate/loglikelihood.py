"""Log-probabilities of given continuations: how likely a model finds texts that it did not write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from lotune.errors import DataError
from lotune.generate.backends import slot_batcher
from lotune.generate.continuous_batching import PREFILL_TOKENS, ContinuousBatcher
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.prefix_sharing import common_prefix_length
from lotune.generate.requests import Request
from lotune.generate.running import RunningRequest
from lotune.model.eval_mode import eval_mode
from lotune.model.loading import declared_context_length
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.parts import token_reader, virtual_ids

MAX_LOGITS = 2**25
"""Logits that are made at once, 128 MiB of them in float32."""
MIN_SHARED_RATIO = 0.25
"""The share of the prompts' tokens from which on reading them once pays."""


@dataclass(frozen=True)
class Continuation:
    """Tokens that may follow a prompt, one of each at least; `where` names them in messages."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    where: str = ""


class LogLikelihood:
    """A model that scores continuations, group after group; its weights must not change in between."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @cached_property
    def _batcher(self) -> ContinuousBatcher | None:
        return slot_batcher(self.model)

    def reset(self) -> None:
        """Forget the prompts that were read, and give their memory back."""
        if "_batcher" in vars(self) and self._batcher is not None:
            self._batcher.reset()

    @torch.inference_mode()
    def score(self, rows: Sequence[Continuation], *, batch_tokens: int) -> list[tuple[float, ...]]:
        """Return the log-probability, in nats, of each token of each continuation, in the order of the rows.

        Where much of the prompts is shared (the options of a question, the examples before it), it is read once.
        Otherwise rows of similar length are computed together, padded at their ends, which no earlier token sees. In
        float32 the figures do not depend on the batch.
        Raises: DataError for a row without prompt or continuation, or longer than the model's context;
        NotFiniteLogitsError where logits are not finite.
        """
        try:
            return self._score(rows, batch_tokens)
        except NotFiniteLogitsError as error:
            raise error.traced(self.model) from None

    def _score(self, rows: Sequence[Continuation], batch_tokens: int) -> list[tuple[float, ...]]:
        model = token_reader(self.model)
        _check(self.model, rows)
        prefix_ids = virtual_ids(self.model)
        rows = [replace(row, prompt_ids=(*prefix_ids, *row.prompt_ids)) for row in rows] if prefix_ids else rows
        order = sorted(range(len(rows)), key=lambda index: rows[index].prompt_ids)
        shares = _shared_token_ratio([rows[index].prompt_ids for index in order]) >= MIN_SHARED_RATIO
        batcher, vocabulary = self._batcher if shares else None, model.config.get_text_config().vocab_size
        scores: dict[int, tuple[float, ...]] = {}
        if batcher is not None:
            with batcher.session():
                for indices in _neighbours(rows, order, batch_tokens, vocabulary):
                    group = [rows[index] for index in indices]
                    logits = continuation_logits(batcher, [(row.prompt_ids, row.ids) for row in group])
                    scores |= zip(indices, map(_chosen, group, logits), strict=True)
        else:
            with eval_mode(model):
                for indices in _batches(rows, batch_tokens, vocabulary):
                    scores |= zip(indices, _batch(model, [rows[index] for index in indices]), strict=True)
        return [scores[index] for index in range(len(rows))]


def continuation_logits(
    batcher: ContinuousBatcher, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> Sequence[torch.Tensor]:
    """Return logits (len(ids), V) of the ids that follow a prompt, for rows of (prompt, ids): a prompt is read once.

    Each row takes a slot, and each prompt; the first prompt is remembered for the next call. No request must run.
    """
    slots, prompts = batcher.slots, list(dict.fromkeys(prompt for prompt, _ in rows))
    count, capacity = len(prompts) + len(rows), max(len(prompt) + len(ids) for prompt, ids in rows)
    if count > slots.slots or capacity > slots.capacity:
        slots.resize(count, capacity, 1)
    requests = [RunningRequest(number, Request(prompt, 1)) for number, prompt in enumerate(prompts)]
    part = max(1, PREFILL_TOKENS // capacity)
    try:
        for first in range(0, len(requests), part):
            batcher.prefill(requests[first : first + part])
        slot_of = {prompts[row.index]: slot for slot, row in enumerate(batcher.running)}
    finally:
        batcher.running.clear()
    for slot, (prompt, _) in enumerate(rows, len(prompts)):
        slots.copy(slot_of[prompt], slot, len(prompt) - 1)
    lengths = [len(ids) for _, ids in rows]
    longest = max(lengths)
    read = [[prompt[-1], *ids[:-1], *[0] * (longest - len(ids))] for prompt, ids in rows]
    positions = slots.position_ids([len(prompt) - 1 for prompt, _ in rows], longest)  # (n, T)
    inputs = ForwardInput(len(prompts), torch.tensor(read, device=slots.device), positions, capacity - 1, lengths)
    logits: Sequence[torch.Tensor] = slots.logits(inputs, keep=None).split(lengths)  # (L, V) -> n times (len(ids), V)
    return logits


def _shared_token_ratio(prompts: Sequence[tuple[int, ...]]) -> float:
    """The share of the tokens of sorted prompts with which those before them begin already.

    >>> _shared_token_ratio([tuple(range(40)), tuple(range(40)), (7,) * 20])
    0.39
    """
    shared = sum(common_prefix_length(one[:-1], other[:-1]) for one, other in pairwise(prompts))
    return shared / max(1, sum(map(len, prompts)))


def _neighbours(
    rows: Sequence[Continuation], order: Sequence[int], batch_tokens: int, vocabulary: int
) -> Iterator[list[int]]:
    """Places of rows whose prompts are next to one another, as many as slots and logits have room for."""
    group: list[int] = []
    slots = longest = width = 0
    for place in order:
        row = rows[place]
        slots += 1 + (not group or row.prompt_ids != rows[group[-1]].prompt_ids)
        longest, width = max(longest, len(row.prompt_ids) + len(row.ids)), max(width, len(row.ids))
        if group and (slots * longest > batch_tokens or (len(group) + 1) * width * vocabulary > MAX_LOGITS):
            yield group
            group, slots, longest, width = [], 2, len(row.prompt_ids) + len(row.ids), len(row.ids)
        group.append(place)
    if group:
        yield group


def _chosen(row: Continuation, logits: torch.Tensor) -> tuple[float, ...]:
    """The log-probabilities of a continuation's tokens in logits (len(ids), V)."""
    wanted = torch.tensor(row.ids, device=logits.device)
    values: list[float] = logits.float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0].tolist()
    for place, value in enumerate(values):
        if math.isnan(value):  # of any logits that are NaN or +inf, or all -inf
            ids, largest = (*row.prompt_ids, *row.ids[:place]), float(logits[place].max())
            raise NotFiniteLogitsError(row.where or "a continuation", ids, largest)
    return tuple(values)


def _batch(model: Any, rows: Sequence[Continuation]) -> Iterator[tuple[float, ...]]:
    """(n, T) tokens, the last of each row left out, as it predicts nothing that is asked for."""
    whole = [(*row.prompt_ids, *row.ids) for row in rows]
    width = max(map(len, whole)) - 1
    ids = torch.tensor([[*row[:-1], *[0] * (width + 1 - len(row))] for row in whole], device=model.device)
    mask = torch.tensor([[1] * (len(row) - 1) + [0] * (width + 1 - len(row)) for row in whole], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for row, its in zip(rows, logits, strict=True):
        first = len(row.prompt_ids) - 1
        yield _chosen(row, its[first : first + len(row.ids)])


def _batches(rows: Sequence[Continuation], batch_tokens: int, vocabulary: int) -> Iterator[list[int]]:
    """Places of rows of similar length, so many together that tokens and logits stay below their bounds."""
    lengths = [len(row.prompt_ids) + len(row.ids) for row in rows]
    most = max(1, min(batch_tokens, MAX_LOGITS // vocabulary))
    group: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: (-lengths[place], place)):
        if group and (len(group) + 1) * lengths[group[0]] > most:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _check(model: Any, rows: Sequence[Continuation]) -> None:
    declared = declared_context_length(model.config)
    context = None if declared is None else declared - len(virtual_ids(model))
    for number, row in enumerate(rows):
        where, length = row.where or f"continuation {number}", len(row.prompt_ids) + len(row.ids)
        if not row.prompt_ids or not row.ids:
            raise DataError(where, "has no prompt or no continuation", "one token of each at least")
        if context is not None and 0 < context < length:
            raise DataError(where, f"has {length} tokens", f"at most {context}, the model's context", "shorten it")
