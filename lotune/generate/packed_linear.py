"""Linear layers applied to a few rows: MKL multiplies two to three times as fast with weights that it has packed.

A step of a few answers, the end of a prompt, a draft: products of 2 to 64 rows with every weight, for which a plain
product packs the weights anew each time. Packed ones are a second copy of float32 weights, made when first needed.

Shapes: L rows, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

MAX_PACKED_ROWS = 512
"""More rows are multiplied as fast with plain weights."""
PACKED_FOR = 64
"""Rows that weights are packed for; the packed form is the same for any number, and this one suits few and many."""
MAX_PACKED_BYTES = 2 * 2**30
"""A model whose linear layers take more keeps them plain, as there would be too little room for a second copy."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """The weights of a layer as they were; `packed` is None where they cannot be."""

    plain: Tensor
    version: int
    packed: Tensor | None


class PackedLinears:
    """Applies linear layers, plain, adapted or quantised, and keeps the packed weights of plain ones.

    They are packed anew where another tensor took their place or an operation changed them; what is written through
    `weight.data` is not seen. `enabled` turns it off and on.
    """

    def __init__(self, model: nn.Module) -> None:
        plain = (layer for layer in model.modules() if type(layer) is nn.Linear)
        self.enabled = sum(layer.weight.nbytes for layer in plain) <= MAX_PACKED_BYTES
        self._known: dict[nn.Module, _Weight] = {}

    def __call__(self, layer: Any, rows: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Apply a layer to (L, I): (L, O), with the adapter of each row where they are named and it has adapters."""
        if type(layer) is not nn.Linear:
            named = adapter_names is not None and "base_layer" in layer._modules
            output: Tensor = layer(rows, adapter_names=adapter_names) if named else layer(rows)
            return output
        if self.enabled and 1 < len(rows) <= MAX_PACKED_ROWS and (packed := self._packed(layer)) is not None:
            return _multiply(rows, packed, layer.weight, layer.bias)
        return linear(rows, layer.weight, layer.bias)

    def _packed(self, layer: nn.Linear) -> Tensor | None:
        weight, known = layer.weight, self._known.get(layer)
        if type(weight) is not nn.Parameter or weight.dtype != torch.float32 or weight.device.type != "cpu":
            return None  # a quantised weight may say that it is float32
        if weight.is_inference():
            return None  # has no version
        if known is None or known.plain is not weight or known.version != weight._version:
            known = _Weight(weight, weight._version, _pack(weight) if mkl_packing_works() else None)
            self._known[layer] = known
        return known.packed


def _pack(weight: Tensor) -> Tensor | None:
    """The packed weights; None where there is no room for them."""
    try:
        packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), PACKED_FOR)
    except RuntimeError:
        return None
    return packed


def _multiply(rows: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkl._mkl_linear(rows, packed, weight, bias, len(rows))
    return found


@cache
def mkl_packing_works() -> bool:
    """Whether PyTorch has MKL here, and products with packed weights are the plain ones for any number of rows."""
    if not torch.backends.mkl.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(size, 96, generator=generator) for size in (80, MAX_PACKED_ROWS))
    try:
        packed = _pack(weight)
        return packed is not None and all(
            torch.allclose(_multiply(rows[:n], packed, weight, None), linear(rows[:n], weight), atol=1e-4)
            for n in (2, 3, 7, 16, 33, 64, 130, MAX_PACKED_ROWS)
        )
    except (AttributeError, RuntimeError):  # the operations are not PyTorch's public ones
        return False
