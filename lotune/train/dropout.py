"""Dropout of an adapter that does not depend on how rows are divided into micro-batches.

The dropped inputs of a token follow from the seed, the step, the text up to the token, and the layer. They are the same
for micro-batches of another size, packed or padded rows, recomputed activations, more processes, and a resumed
training. A prefix that rows of a step share has the same dropout in all of them, as it may be computed once.

B, T: lines of a batch (1 if rows are packed) and tokens of a line. R: packed rows. D: features of a layer's input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from lotune.data.collate import Batch
from lotune.model.methods.registry import adapter_methods

_ODD = (0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
"""Constants of splitmix64 (Steele et al. 2014), as signed integers."""
_ODD_32 = (0x85EBCA6B - 2**32, 0xC2B2AE35 - 2**32)
"""Constants of MurmurHash3's finalizer, as signed integers."""


class Draw:
    """The state that a model's dropout layers share: the seed, and the keys (B, T) int32 of the current pass."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.keys: Tensor | None = None


class TextDropout(nn.Dropout):
    """Dropout of inputs (B, T, D) or (B·T, D) by the keys of a `Draw`; of other shapes, at random."""

    def __init__(self, p: float, draw: Draw, number: int) -> None:
        super().__init__(p)
        self.draw, self.number = draw, number

    def forward(self, input: Tensor) -> Tensor:
        keys = self.draw.keys
        if not self.training or self.p == 0 or keys is None:
            return super().forward(input)
        if input.ndim == 2 and len(input) == keys.numel():
            keys = keys.flatten()  # (B·T,)
        if input.shape[:-1] != keys.shape:
            return super().forward(input)
        return (input * (1 / (1 - self.p))).masked_fill_(dropped(keys, input.shape[-1], self.number, self.p), 0)


def drop_by_text(model: nn.Module, seed: int) -> None:
    """Replace the dropout layers of a model's adapter by layers that drop by the text, in place."""
    draw, number = Draw(seed), 0
    methods = [method for method, _ in adapter_methods(model) if method is not None]
    for layers in chain.from_iterable(method.dropout_layers(model) for method in dict.fromkeys(methods)):
        for name, layer in layers.named_children():
            if type(layer) is nn.Dropout:
                setattr(layers, name, TextDropout(layer.p, draw, number).train(layer.training))
                number += 1


def draw_of(model: nn.Module) -> Draw | None:
    """Return the state that a model's dropout layers share, or None if `drop_by_text` found no layer."""
    return next((module.draw for module in model.modules() if isinstance(module, TextDropout)), None)


@contextmanager
def dropping(draw: Draw | None, batch: Batch, step: int, device: torch.device) -> Iterator[None]:
    """Set the keys of dropout for the forward and backward pass of a batch within the block."""
    if draw is None:
        yield
        return
    draw.keys = text_keys(batch, draw.seed, step).to(device)
    try:
        yield
    finally:
        draw.keys = None


def text_keys(batch: Batch, seed: int, step: int) -> Tensor:
    """Return keys (B, T) int32, each a hash of the seed, the step and the tokens of its row up to that position."""
    sums = _mixed(batch.input_ids * _ODD[0] + batch.positions * _ODD[1]).cumsum(1)  # (B, T)
    lengths = batch.row_lengths
    if lengths is not None:
        shared, *own = lengths.tolist()
        # A packed line is summed as a whole, so the sum of the earlier rows is subtracted from each row.
        before = torch.nn.functional.pad(sums[0], (1, 0))  # (T + 1,): sum of the tokens before each position
        starts = shared + torch.tensor([0, *own[:-1]]).cumsum(0)  # (R,): first token of each row
        earlier_rows = (before[starts] - before[shared]).repeat_interleave(torch.tensor(own))  # (T - shared,)
        sums = sums - torch.nn.functional.pad(earlier_rows, (shared, 0))
    return (_mixed(sums + _mixed(torch.tensor([seed * _ODD[1] % 2**62 + step]))) >> 32).int()


def dropped(keys: Tensor, features: int, number: int, p: float) -> Tensor:
    """Return which inputs of layer `number` to drop, bool (..., D), for keys (...): a fraction `p` of them."""
    columns = torch.arange(features, device=keys.device) + (number << 32)  # (D,)
    mixed = keys[..., None] ^ (_mixed(columns) >> 32).int()  # (..., D)
    mixed = mixed * _ODD_32[0]
    mixed = mixed ^ ((mixed >> 15) & 0x1FFFF)
    return mixed * _ODD_32[1] < min(round((p - 0.5) * 2**32), 2**31 - 1)


def _mixed(numbers: Tensor) -> Tensor:
    """Return the finalizer of splitmix64 (Steele et al. 2014), in int64 that overflows."""
    numbers = (numbers ^ ((numbers >> 30) & (2**34 - 1))) * _ODD[1]
    numbers = (numbers ^ ((numbers >> 27) & (2**37 - 1))) * _ODD[2]
    return numbers ^ ((numbers >> 31) & (2**33 - 1))
