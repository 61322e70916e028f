"""Models at rest or in training for a moment, in the middle of a training or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

REDUCED_DTYPES = (torch.bfloat16, torch.float16)
"""Number formats of weights that round more than float32."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A block in which no module of a model is in training mode."""
    with _in_mode(model, training=False):
        yield


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """A block in which all modules of a model are in training mode; it draws no random numbers of those outside."""
    device = next(model.parameters()).device
    with _in_mode(model, training=True), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    others = [module for module in model.modules() if module.training != training]
    for module in others:
        module.training = training
    try:
        yield
    finally:
        for module in others:
            module.training = not training


@contextmanager
def in_float32_for_now(model: nn.Module) -> Iterator[None]:
    """A block in which weights in a reduced number format are float32; they are afterwards the very same tensors."""
    reduced = [(weight, weight.data) for weight in model.parameters() if weight.dtype in REDUCED_DTYPES]
    try:
        for weight, data in reduced:
            weight.data = data.float()
        yield
    finally:
        for weight, data in reduced:
            weight.data = data
