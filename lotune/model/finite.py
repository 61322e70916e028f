"""A search for the layer where numbers stop being finite, by a second pass after a result is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def noting_faults(model: nn.Module) -> Iterator[list[str]]:
    """Collect the names of modules whose output, and of parameters whose gradient, is not finite within the block.

    Names are in the order of computation. A module precedes those that contain it, so the first name is the innermost.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> with noting_faults(model) as faults:
    ...     _ = model(torch.tensor([1.0, torch.inf]))
    >>> faults[0]
    '0'
    """
    faults: list[str] = []
    hooks: list[Any] = [
        module.register_forward_hook(partial(_note_output, faults, name))
        for name, module in model.named_modules()
        if name
    ]
    hooks += [
        parameter.register_post_accumulate_grad_hook(partial(_note_gradient, faults, name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield faults
    finally:
        for hook in hooks:
            hook.remove()


def _note_output(faults: list[str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if not _is_finite(output):
        faults.append(name)


def _note_gradient(faults: list[str], name: str, parameter: Tensor) -> None:
    if not _is_finite(parameter.grad):
        faults.append(name)


def _is_finite(value: Any) -> bool:
    """Return whether all tensors in a nested value are finite; of a sharded tensor, check this process's shard."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    local: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return bool(torch.isfinite(local).all())
