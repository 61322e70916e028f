"""Linear layers applied to a few rows: MKL multiplies two to three times as fast with weights that it has packed.

A step of a few answers, the end of a prompt, a draft: products of 2 to 64 rows with every weight, for which a plain
product packs the weights anew each time. Packed ones are a second copy of float32 weights, made when first needed.

Shapes: L rows, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

MOST_ROWS = 512
"""More rows are multiplied as fast with plain weights."""
PACKED_FOR = 64
"""Rows that weights are packed for; the packed form is the same for any number, and this one suits few and many."""
MOST_BYTES = 2 * 2**30
"""Packed weights of one model at most; layers beyond stay plain."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """The weights of a layer as they were; `packed` is None where they stay plain."""

    plain: Tensor
    version: int
    packed: Tensor | None

    @property
    def bytes(self) -> int:
        return 0 if self.packed is None else self.packed.nbytes


class Products:
    """Applies linear layers, plain, adapted or quantised, and keeps the packed weights of plain ones."""

    def __init__(self) -> None:
        self._known: dict[nn.Module, _Weight] = {}

    def __call__(self, layer: Any, rows: Tensor) -> Tensor:
        """A layer applied to (L, I): (L, O)."""
        if type(layer) is not nn.Linear:
            found: Tensor = layer(rows)
            return found
        if 1 < len(rows) <= MOST_ROWS and (packed := self._packed(layer)) is not None:
            return _multiply(rows, packed, layer.weight, layer.bias)
        return linear(rows, layer.weight, layer.bias)

    def _packed(self, layer: nn.Linear) -> Tensor | None:
        """The packed weights of a layer, made anew where the weights were changed."""
        weight, known = layer.weight, self._known.get(layer)
        if weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.is_inference():
            return None
        if known is None or known.plain is not weight or known.version != weight._version:
            self._known.pop(layer, None)
            fits = weight.nbytes + sum(one.bytes for one in self._known.values()) <= MOST_BYTES
            known = _Weight(weight, weight._version, _pack(weight) if fits and multiplies() else None)
            self._known[layer] = known
        return known.packed


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), PACKED_FOR)
    return packed


def _multiply(rows: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkl._mkl_linear(rows, packed, weight, bias, len(rows))
    return found


@cache
def multiplies() -> bool:
    """Whether PyTorch has MKL here, and products with packed weights are the plain ones for any number of rows."""
    if not torch.backends.mkl.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(size, 96, generator=generator) for size in (80, MOST_ROWS))
    try:
        packed = _pack(weight)
        return all(
            torch.allclose(_multiply(rows[:n], packed, weight, None), linear(rows[:n], weight), atol=1e-4)
            for n in (2, 3, 7, 16, 33, 64, 130, MOST_ROWS)
        )
    except (AttributeError, RuntimeError):  # the operations are not PyTorch's public ones
        return False
