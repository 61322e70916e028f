"""Which dtype is faster: measured on a GPU with one large product, on a processor with the products of the work itself.

The first measurement holds for a machine, a version of torch and the shapes of the products as long as its file exists,
so that all processes of a machine decide alike.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lotune.environment import processor
from lotune.fingerprints import fingerprint
from lotune.model.settings import Dtype

if TYPE_CHECKING:
    import torch
    from torch import nn

MIN_SPEEDUP = 1.5
"""bfloat16 counts as faster from this ratio on."""
GPU_SIZE, GPU_TIMES = 4096, 5
"""Square matrices of this size are multiplied on a GPU, so many times."""
MAX_TIMED_ROWS, MAX_TIMED_STEPS = 256, 2**27
"""Rows of a product that is timed on a processor, and its multiplications, at most."""
MAX_TIMED_SHAPES = 4
"""Shapes of products that are timed, those with the most work."""
BUDGET_SECONDS, MIN_ROUNDS, MAX_ROUNDS = 0.3, 3, 9
"""How long products are timed in turns, after a first round, within the least and the most rounds."""


class MatmulSeconds(NamedTuple):
    """Seconds that products take in each dtype; infinite if the device does not compute in it."""

    float32: float
    bfloat16: float

    @property
    def ratio(self) -> float:
        """The speed of bfloat16 as a multiple of that of float32."""
        return self.float32 / self.bfloat16


class Product(NamedTuple):
    """A linear layer of a step: (rows, inputs) times (inputs, outputs), and the number of `layers` of the shape."""

    rows: int
    inputs: int
    outputs: int
    layers: int


class Decision(NamedTuple):
    """A number format, what decided it in words for people, and the figures."""

    dtype: Dtype
    why: str
    figures: dict[str, Any]


def products_of(model: nn.Module, tokens: int) -> list[Product]:
    """Return the products of a step over so many tokens, the ones with the most work first."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    shapes: Counter[tuple[int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            shapes[module.in_features, module.out_features] += 1
        elif isinstance(module, Conv1D):
            shapes[int(module.weight.shape[0]), int(module.weight.shape[1])] += 1
    found = [Product(tokens, *shape, count) for shape, count in shapes.items()]
    return sorted(found, key=lambda one: (-one.inputs * one.outputs * one.layers, one))[:MAX_TIMED_SHAPES]


def training_format(device: str, products: Sequence[Product], trains_all: bool = False) -> Decision:
    """Return the format in which a training on a device is clearly faster, by its own products.

    `trains_all`: the weights themselves are trained, so that their gradients are products too.
    """
    if not device.startswith("cpu"):
        faster = bfloat16_is_faster(device)
        dtype: Dtype = "bfloat16" if faster else "float32"
        return Decision(dtype, f"{device} is {'' if faster else 'not '}clearly faster in bfloat16", {})
    if not any("bf16" in flag for flag in processor_flags()) or not products:
        return Decision("float32", "the processor has no unit for bfloat16", {"processor": processor()})
    import torch

    known = {
        "processor": processor(), "torch": torch.__version__,
        "products": [list(product) for product in products], "trains_all": trains_all,
    }  # fmt: skip
    name = f"{known['processor']} torch {torch.__version__} {fingerprint(known)[:16]}"
    found = _kept(name, lambda: measure_products(products, trains_all), known)
    dtype = "bfloat16" if found.ratio > MIN_SPEEDUP else "float32"
    times = f"{1e3 * found.float32:.1f} ms in float32 and {1e3 * found.bfloat16:.1f} ms in bfloat16"
    why = f"the products of a step take {times} on one thread ({known['processor']})"
    return Decision(dtype, why, {**known, **found._asdict(), "ratio": found.ratio, "needed": MIN_SPEEDUP})


def measure_products(products: Sequence[Product], trains_all: bool = False) -> MatmulSeconds:
    """Return what the products of a step take, forward and backward, estimated from smaller ones of their shape.

    Both formats are timed in turns, on one thread and by the time that it computes, so that what else the machine does
    decides nothing; of the rounds the one of the median ratio counts.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rounds(products, trains_all)
    finally:
        torch.set_num_threads(threads)


def _rounds(products: Sequence[Product], trains_all: bool) -> MatmulSeconds:
    import torch

    made = {dtype: [_factors(one, dtype) for one in products] for dtype in (torch.float32, torch.bfloat16)}
    shares = [_work(one) / _work(_smaller(one)) * one.layers for one in products]
    rounds, began = list[MatmulSeconds](), time.perf_counter()
    while len(rounds) <= MIN_ROUNDS or (
        len(rounds) <= MAX_ROUNDS and time.perf_counter() - began < BUDGET_SECONDS
    ):  # the first one warms up
        rounds.append(MatmulSeconds(*(_timed(factors, shares, trains_all) for factors in made.values())))
    counted = sorted(rounds[1:], key=lambda one: one.ratio)
    return counted[len(counted) // 2] if all(math.isfinite(one.bfloat16) for one in counted) else counted[0]


def _smaller(product: Product) -> Product:
    """A product of the same kind that takes little time: fewer rows, then less of the longer side."""
    rows, inputs, outputs = min(product.rows, MAX_TIMED_ROWS), product.inputs, product.outputs
    while rows * inputs * outputs > MAX_TIMED_STEPS:
        inputs, outputs = (inputs // 2, outputs) if inputs > outputs else (inputs, outputs // 2)
    return product._replace(rows=rows, inputs=inputs, outputs=outputs)


def _work(product: Product) -> int:
    return product.rows * product.inputs * product.outputs


def _factors(product: Product, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs (rows, inputs), weight (outputs, inputs) and gradient of the outputs (rows, outputs)."""
    import torch

    one = _smaller(product)
    sizes = (one.rows, one.inputs), (one.outputs, one.inputs), (one.rows, one.outputs)
    first, second, third = (torch.ones(size, dtype=dtype) for size in sizes)
    return first, second, third


def _timed(factors: Sequence[tuple[torch.Tensor, ...]], shares: Sequence[float], trains_all: bool) -> float:
    """Seconds of all products, each counted as often as its share says; infinite in a format without products."""
    import torch

    seconds = 0.0
    for (inputs, weight, gradient), share in zip(factors, shares, strict=True):
        began = time.thread_time()
        try:
            torch.mm(inputs, weight.t())
            torch.mm(gradient, weight)
            if trains_all:
                torch.mm(gradient.t(), inputs)
        except RuntimeError:
            return math.inf
        seconds += share * (time.thread_time() - began)
    return seconds


@lru_cache
def bfloat16_is_faster(device: str) -> bool:
    """Whether a GPU is clearly faster in bfloat16 than in float32; False for any other device."""
    if not device.startswith("cuda"):
        return False
    import torch

    name = f"{torch.cuda.get_device_name(device)} torch {torch.__version__}"
    return _kept(name, lambda: measure(device), {}).ratio > MIN_SPEEDUP


def measure(device: str) -> MatmulSeconds:
    """The seconds of a large square product on a GPU, the least of several."""
    import torch

    return MatmulSeconds(_time_matmul(device, torch.float32), _time_matmul(device, torch.bfloat16))


def _time_matmul(device: str, dtype: torch.dtype) -> float:
    import torch

    found = list[float]()
    try:
        factor = torch.ones(GPU_SIZE, GPU_SIZE, device=device, dtype=dtype)
        for _ in range(GPU_TIMES + 1):  # the first one warms up
            began = time.perf_counter()
            torch.mm(factor, factor)
            torch.cuda.synchronize(device)
            found.append(time.perf_counter() - began)
    except RuntimeError:
        return math.inf
    return min(found[1:])


def processor_flags() -> set[str]:
    """What the processor can do, of the names that matter here: torch's word, else the kernel's."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return {name for name, there in capabilities.items() if there is True}
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return set()


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lotune" / "number-formats"


def _kept(name: str, measured: Callable[[], MatmulSeconds], known: dict[str, Any]) -> MatmulSeconds:
    """What is remembered under a name, else what is measured now, or what another process has remembered meanwhile."""
    try:
        file = _folder() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.json"
    except RuntimeError:  # no home
        return measured()
    return _remembered(file) or _remember(file, measured(), known)


def _remember(file: Path, found: MatmulSeconds, known: dict[str, Any]) -> MatmulSeconds:
    """What was measured, or what another process has remembered before."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(json.dumps({**found._asdict(), **known}))
    except FileExistsError:
        return _remembered(file) or found
    except OSError:  # no room: it is measured again each time
        pass
    return found


def _remembered(file: Path) -> MatmulSeconds | None:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return MatmulSeconds(float(held["float32"]), float(held["bfloat16"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
