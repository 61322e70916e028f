"""Linear layers in int8: weights with a scale for each output, inputs with a scale for each row, found as they come.

The product is exact in integers, and a row's scale depends on nothing but the row, so an answer does not depend on the
rows beside it. On a processor with VNNI it is about four times as fast as in float32.

Shapes: L rows, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

PROBE_ROWS = 16
"""Rows of the products that are timed."""
PROBE_REPEATS = 5
MAX_ERROR = 0.03
"""Largest error of a probe's products, relative to the largest product: rounding twice to 8 bits makes about 0.01."""
WORTH_IT = 0.9
"""Largest share of float32's time that int8 may take to be used."""
SMALLEST = 1e-30


@dataclass(frozen=True)
class Int8Report:
    """What became of a model: how many layers are in int8, and how much faster its products are, or why none is."""

    layers: int
    speedup: float
    why: str = ""


@dataclass(frozen=True)
class ScaledRows:
    """Rows as int8 layers take them; layers with the same input share the work.

    The operator finds one range for all rows. Each row is divided by its largest entry, and a row with 1 and -1 is
    added, so that the range is the same for any rows, and each row has a scale of its own.
    """

    values: Tensor
    """Rows (L + 1, I) between -1 and 1, the last one with both."""
    scales: Tensor
    """The largest entry of each row, (L, 1)."""

    @classmethod
    def of(cls, rows: Tensor) -> ScaledRows:
        """Return rows (L, I) as int8 layers take them."""
        rows = rows.detach().float()
        scales = rows.abs().amax(1, keepdim=True).clamp_min_(SMALLEST)
        values = rows.new_empty(len(rows) + 1, rows.shape[1])
        torch.div(rows, scales, out=values[:-1])
        values[-1] = _bounds(rows.shape[1])
        return cls(values, scales)


@cache
def _bounds(size: int) -> Tensor:
    bounds = torch.zeros(size)
    bounds[0], bounds[-1] = 1.0, -1.0
    return bounds


class Int8Linear(nn.Module):
    """A linear layer whose weight (O, I) is held in int8."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scales = (weight.detach().float().abs().amax(1) / 127).clamp_min(SMALLEST)  # (O,)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that quantised tensors will move to another package
            quantized = torch.quantize_per_channel(weight.detach().float(), scales.double(), zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (..., I), and return (..., O) in float32."""
        result = self.apply_to(ScaledRows.of(x.reshape(-1, self.in_features)))  # (..., I) -> (L, O)
        return result.reshape(*x.shape[:-1], self.out_features)

    def apply_to(self, rows: ScaledRows) -> Tensor:
        """Apply the layer to rows (L, I) that are scaled already, and return (L, O) in float32."""
        product = torch.ops.quantized.linear_dynamic(rows.values, self._packed)
        result: Tensor = product[:-1].mul_(rows.scales)  # (L + 1, O) -> (L, O)
        if self.bias is not None:
            result += self.bias
        return result

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def quantize_int8(model: nn.Module) -> Int8Report:
    """Replace the linear layers of a float32 model on a CPU, adapters excepted, if that makes it faster here.

    A probe compares products and times of the model's shapes; where the operator is missing, wrong or slower, the model
    stays as it is.
    """
    layers = list(_linear_layers(model))
    shapes = Counter(tuple(_weight(layer).shape) for _, _, layer in layers)
    if not layers:
        return Int8Report(0, 1.0, "the model has no linear layers in float32 on a CPU")
    try:
        faults, seconds, float_seconds = [], 0.0, 0.0
        for shape, count in shapes.items():
            error, fast, plain = _probe(*shape)
            faults += [f"its products are off by {error:.2g}"] if error > MAX_ERROR else []
            seconds, float_seconds = seconds + count * fast, float_seconds + count * plain
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return Int8Report(0, 1.0, f"torch has no int8 products here: {str(error).splitlines()[0][:120]}")
    speedup = float_seconds / seconds
    if faults:
        return Int8Report(0, speedup, faults[0])
    if speedup * WORTH_IT < 1:
        return Int8Report(0, speedup, f"its products take {1 / speedup:.2f} of float32's time on this processor")
    for parent, name, layer in layers:
        setattr(parent, name, Int8Linear(_weight(layer), layer.bias))
    return Int8Report(len(layers), speedup)


def is_int8(model: Any) -> bool:
    """Return whether a model has layers in int8."""
    return isinstance(model, nn.Module) and any(isinstance(module, Int8Linear) for module in model.modules())


def _linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield parent, name and layer of each linear layer of the base, the output head included."""
    from transformers.pytorch_utils import Conv1D

    for path, parent in model.named_modules():
        if "lora_" in path:
            continue
        for name, child in parent.named_children():
            if type(child) not in (nn.Linear, Conv1D) or name.startswith("lora_"):
                continue
            weight: Any = child.weight
            if weight.dtype == torch.float32 and weight.device.type == "cpu":
                yield parent, name, child


def _weight(layer: Any) -> Tensor:
    """Return the weight (O, I) of a layer; GPT-2's layers hold it transposed."""
    weight: Tensor = layer.weight
    return weight if type(layer) is nn.Linear else weight.T.contiguous()


@torch.inference_mode()
def _probe(outputs: int, inputs: int) -> tuple[float, float, float]:
    """Return the relative error of a layer of that shape, and the seconds that it takes in int8 and in float32."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)  # (O, I)
    rows = torch.randn(PROBE_ROWS, inputs, generator=generator)  # (L, I)
    layer, expected = Int8Linear(weight, None), linear(rows, weight)  # (L, O)
    error = float((layer(rows) - expected).abs().max() / expected.abs().max())
    return error, _seconds(lambda: layer(rows)), _seconds(lambda: linear(rows, weight))


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(PROBE_REPEATS + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
