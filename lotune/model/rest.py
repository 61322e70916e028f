"""Models at rest: asked for a moment, in the middle of a training or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

PROBE = (5, 3, 7, 2, 9, 4, 8, 6)
"""Token ids that every vocabulary has, to ask a model with."""

REDUCED = (torch.bfloat16, torch.float16)
"""Number formats of weights that round more than float32."""


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """A block in which no module of a model is in training mode."""
    learning = [module for module in model.modules() if module.training]
    for module in learning:
        module.training = False
    try:
        yield
    finally:
        for module in learning:
            module.training = True


@contextmanager
def in_float32_for_now(model: nn.Module) -> Iterator[None]:
    """A block in which weights in a reduced number format are float32; they are afterwards the very same tensors."""
    reduced = [(weight, weight.data) for weight in model.parameters() if weight.dtype in REDUCED]
    try:
        for weight, data in reduced:
            weight.data = data.float()
        yield
    finally:
        for weight, data in reduced:
            weight.data = data
