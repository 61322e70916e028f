"""Log-probabilities of given continuations: how likely a model finds texts that it did not write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lotune.errors import DataError
from lotune.model.base import known_context
from lotune.model.rest import at_rest

MOST_LOGITS = 2**25
"""Logits that are made at once, 128 MiB of them in float32."""


@dataclass(frozen=True)
class Continuation:
    """Tokens that may follow a prompt, one of each at least; `where` names them in messages."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    where: str = ""


@torch.inference_mode()
def log_probabilities(model: Any, rows: Sequence[Continuation], *, batch_tokens: int) -> list[tuple[float, ...]]:
    """The log-probability, in nats, of each token of each continuation, in the order of the rows.

    Rows of similar length are computed together, filled up at their ends, which no earlier token sees: in float32 the
    figures do not depend on the batch.
    Raises: DataError for a row without prompt or continuation, or longer than the model's context.
    """
    _check(model, rows)
    found: dict[int, tuple[float, ...]] = {}
    with at_rest(model):
        for places in _batches(rows, batch_tokens, model.config.get_text_config().vocab_size):
            for place, values in zip(places, _batch(model, [rows[place] for place in places]), strict=True):
                found[place] = values
    return [found[place] for place in range(len(rows))]


def _batch(model: Any, rows: Sequence[Continuation]) -> Iterator[tuple[float, ...]]:
    """(n, T) tokens, the last of each row left out, as it predicts nothing that is asked for."""
    whole = [(*row.prompt_ids, *row.ids) for row in rows]
    width = max(map(len, whole)) - 1
    ids = torch.tensor([[*row[:-1], *[0] * (width + 1 - len(row))] for row in whole], device=model.device)
    mask = torch.tensor([[1] * (len(row) - 1) + [0] * (width + 1 - len(row)) for row in whole], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for row, its in zip(rows, logits, strict=True):
        first = len(row.prompt_ids) - 1
        wanted = torch.tensor(row.ids, device=its.device)
        chosen = its[first : first + len(row.ids)].float().log_softmax(-1).gather(-1, wanted[:, None])
        yield tuple(chosen[:, 0].tolist())


def _batches(rows: Sequence[Continuation], batch_tokens: int, vocabulary: int) -> Iterator[list[int]]:
    """Places of rows of similar length, so many together that tokens and logits stay below their bounds."""
    lengths = [len(row.prompt_ids) + len(row.ids) for row in rows]
    most = max(1, min(batch_tokens, MOST_LOGITS // vocabulary))
    group: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: (-lengths[place], place)):
        if group and (len(group) + 1) * lengths[group[0]] > most:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _check(model: Any, rows: Sequence[Continuation]) -> None:
    context = known_context(model.config)
    for number, row in enumerate(rows):
        where, length = row.where or f"continuation {number}", len(row.prompt_ids) + len(row.ids)
        if not row.prompt_ids or not row.ids:
            raise DataError(where, "has no prompt or no continuation", "one token of each at least")
        if context is not None and length > context:
            raise DataError(where, f"has {length} tokens", f"at most {context}, the model's context", "shorten it")
