"""Comparison of the logits of two models on the same rows, one model at a time on its device.

Shapes: B rows, T tokens with padding, N tokens without, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

BATCH_TOKENS = 2048
"""Tokens of a forward pass, with padding."""
MAX_HELD_LOGITS = 2**28
"""Logits of the first model that are held in CPU memory until the second one computes its own."""

Row = Sequence[int]
"""Token ids."""
OnDevice = Callable[[nn.Module], AbstractContextManager[Any]]
"""A context manager that keeps a model on its device, such as a GPU without memory for two models."""


def largest_difference(
    first: nn.Module,
    second: nn.Module,
    rows: Sequence[Row],
    batch_tokens: int,
    on_device: OnDevice = nullcontext,
    tolerance: float = math.inf,
    exceeding: list[Row] | None = None,
) -> float:
    """Return the largest absolute difference of a logit over all tokens of all rows; NaN if there is one.

    Rows of a batch with a difference above the tolerance are appended to `exceeding`.
    """
    largest = torch.zeros((), dtype=torch.float64)
    for batch, logits, second_logits in _logits(first, second, rows, batch_tokens, on_device):
        difference = (logits - second_logits).abs().max().double()
        largest = torch.maximum(largest, difference)  # maximum and max propagate a NaN
        if exceeding is not None and not difference <= tolerance:
            exceeding += batch
    return float(largest)


def relative_difference(first: nn.Module, second: nn.Module, rows: Sequence[Row], on_device: OnDevice) -> float:
    """Return the norm of the difference of all logits, relative to the norm of the first model's logits."""
    difference = norm = 0.0
    for _, logits, second_logits in _logits(first, second, rows, BATCH_TOKENS, on_device):
        difference += float((second_logits - logits).square().sum())
        norm += float(logits.square().sum())
    return (difference / norm) ** 0.5 if norm else difference


@torch.inference_mode()
def best_two_gap(model: nn.Module, tokens: Row, on_device: OnDevice = nullcontext) -> float:
    """Return the difference of the two largest logits after the last token."""
    with on_device(model):
        best = _unpadded_logits(model, [tokens])[-1].topk(2).values  # (2,)
    return float(best[0] - best[1])


@contextmanager
def in_float64(model: nn.Module, on_device: OnDevice) -> Iterator[None]:
    """Let a float32 model compute in float64 in this block; its weights are the same afterwards."""
    # The conversion to float64 and back is exact, so no copy of the model is needed.
    try:
        with on_device(model.double()):
            yield
    finally:
        model.float()


@torch.inference_mode()
def _logits(
    first: nn.Module, second: nn.Module, rows: Sequence[Row], batch_tokens: int, on_device: OnDevice
) -> Iterator[tuple[list[Row], torch.Tensor, torch.Tensor]]:
    """Yield the rows of a batch and their logits (N, V) from both models, 0 for tokens that both mask."""
    # Many batches per model, as moving the models to the device for every batch would dominate the time.
    batches = deque(_batches(rows, batch_tokens))
    while batches:
        held: list[tuple[list[Row], torch.Tensor]] = []
        with on_device(first):
            while batches and sum(logits.numel() for _, logits in held) < MAX_HELD_LOGITS:
                batch = batches.popleft()
                held.append((batch, _unpadded_logits(first, batch).cpu()))
        with on_device(second):
            for batch, logits in held:
                second_logits = _unpadded_logits(second, batch).cpu()  # (N, V)
                # Some models set the logits of unused ids to -inf, and -inf minus -inf is NaN.
                masked = (logits == -math.inf) & (second_logits == -math.inf)
                yield batch, logits.masked_fill(masked, 0.0), second_logits.masked_fill(masked, 0.0)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Yield batches of rows of similar length, each of at most `batch_tokens` tokens with padding or a single row."""
    # Sorted by length, so that the last row of a batch is its longest and there is little padding.
    batch: list[Row] = []
    for row in sorted((row for row in rows if len(row)), key=len):
        if batch and (len(batch) + 1) * len(row) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _pad(rows: Sequence[Row], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids (B, T), int64, padded at the end, where a causal model ignores it, and the mask of tokens."""
    length = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)  # (B, T)
    lengths = torch.tensor([[len(row)] for row in rows], device=device)  # (B, 1)
    return input_ids, torch.arange(length, device=device) < lengths


def _unpadded_logits(model: nn.Module, rows: Sequence[Row]) -> torch.Tensor:
    """Return the logits of all tokens of the rows, one row after the other: (N, V)."""
    input_ids, is_token = _pad(rows, next(model.parameters()).device)
    logits = model(input_ids=input_ids, use_cache=False).logits  # (B, T, V)
    assert isinstance(logits, torch.Tensor)
    return logits[is_token]  # (N, V)
