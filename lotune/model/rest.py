"""Models at rest: asked for a moment, in the middle of a training or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

PROBE = (5, 3, 7, 2, 9, 4, 8, 6)
"""Token ids that every vocabulary has, to ask a model with."""


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
