"""Switching a model to evaluation or training mode, or to float32, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

REDUCED_DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes of weights that round more than float32."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch all modules of a model to evaluation mode within the block."""
    with _in_mode(model, training=False):
        yield


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """Switch all modules of a model to training mode within the block; restore torch's random state after it."""
    device = next(model.parameters()).device
    with _in_mode(model, training=True), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    switched = [module for module in model.modules() if module.training != training]
    for module in switched:
        module.training = training
    try:
        yield
    finally:
        for module in switched:
            module.training = not training


@contextmanager
def in_float32_for_now(model: nn.Module) -> Iterator[None]:
    """Hold weights of a reduced dtype in float32 within the block; afterwards the original tensors are back."""
    reduced = [(weight, weight.data) for weight in model.parameters() if weight.dtype in REDUCED_DTYPES]
    try:
        for weight, data in reduced:
            weight.data = data.float()
        yield
    finally:
        for weight, data in reduced:
            weight.data = data
