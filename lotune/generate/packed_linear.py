"""Linear layers applied to a few rows: MKL multiplies two to three times as fast with weights that it has packed.

A step of a few answers, the end of a prompt and a draft are products of 2 to 64 rows with every weight. A plain product
packs the weights anew each time. The packed weights are a second copy in float32, made when they are first needed.

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

from lotune.model.int8 import Int8Linear, ScaledRows

MAX_PACKED_ROWS = 512
"""More rows are multiplied as fast with plain weights."""
PACKED_ROWS_HINT = 64
"""The number of rows named to MKL; the packed form is the same for any number, and this one suits few and many."""
MAX_PACKED_BYTES = 2 * 2**30
"""A model with larger linear layers keeps them plain, as a second copy would take too much memory."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """The weights (O, I) of a layer at one version; `packed` is None if they cannot be packed."""

    plain: Tensor
    version: int
    packed: Tensor | None


class PackedLinears:
    """Applies linear layers, plain, adapted or quantised, and keeps the packed weights of plain ones.

    It packs a weight anew if another tensor replaces it or an operation changes it. It does not see a change through
    `weight.data`. `enabled` turns packing off and on.
    """

    def __init__(self, model: nn.Module) -> None:
        plain = (layer for layer in model.modules() if type(layer) is nn.Linear)
        self.enabled = sum(layer.weight.nbytes for layer in plain) <= MAX_PACKED_BYTES
        self._weights: dict[nn.Module, _Weight] = {}

    def __call__(self, layer: Any, rows: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Apply a layer to rows (L, I), and return (L, O).

        `adapter_names` has the adapter of each row; a layer without adapters ignores it.
        """
        if type(layer) is not nn.Linear:
            named = adapter_names is not None and "base_layer" in layer._modules
            output: Tensor = layer(rows, adapter_names=adapter_names) if named else layer(rows)
            return output
        # one row is a product with a vector, for which nothing is packed
        if self.enabled and 1 < len(rows) <= MAX_PACKED_ROWS and (packed := self._packed(layer)) is not None:
            return _multiply(rows, packed, layer.weight, layer.bias)
        return linear(rows, layer.weight, layer.bias)

    def apply_each(
        self, layers: Sequence[Any], rows: Tensor, adapter_names: Sequence[str] | None = None
    ) -> list[Tensor]:
        """Apply layers with the same input (L, I), which int8 layers scale once, and return an (L, O) of each."""
        if all(type(layer) is Int8Linear for layer in layers):
            scaled = ScaledRows.of(rows)
            return [layer.apply_to(scaled) for layer in layers]
        return [self(layer, rows, adapter_names) for layer in layers]

    def _packed(self, layer: nn.Linear) -> Tensor | None:
        weight, stored = layer.weight, self._weights.get(layer)
        if type(weight) is not nn.Parameter or weight.dtype != torch.float32 or weight.device.type != "cpu":
            return None  # a quantised weight may say that it is float32
        if weight.is_inference():
            return None  # has no version
        if stored is None or stored.plain is not weight or stored.version != weight._version:
            stored = _Weight(weight, weight._version, _pack(weight) if mkl_packing_works() else None)
            self._weights[layer] = stored
        return stored.packed


def _pack(weight: Tensor) -> Tensor | None:
    """Return the packed form of weights (O, I), or None if there is no memory for it."""
    try:
        packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), PACKED_ROWS_HINT)
    except RuntimeError:
        return None
    return packed


def _multiply(rows: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkl._mkl_linear(rows, packed, weight, bias, len(rows))  # (L, I) -> (L, O)
    return product


@cache
def mkl_packing_works() -> bool:
    """Whether PyTorch has MKL here, and products with packed weights equal the plain ones for any number of rows."""
    if not torch.backends.mkl.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(size, 96, generator=generator) for size in (80, MAX_PACKED_ROWS))  # (O, I), (L, I)
    try:
        packed = _pack(weight)
        return packed is not None and all(
            torch.allclose(_multiply(rows[:n], packed, weight, None), linear(rows[:n], weight), atol=1e-4)
            for n in (2, 3, 7, 16, 33, 64, 130, MAX_PACKED_ROWS)
        )
    except (AttributeError, RuntimeError):  # the operations are not PyTorch's public ones
        return False
