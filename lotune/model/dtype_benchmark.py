"""A benchmark of dtypes: a GPU is timed with one large matrix product, a CPU with the products of a training step.

The result is cached in a file for each machine, version of torch and set of shapes, so that all processes of a machine
choose the same dtype.
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
"""bfloat16 counts as clearly faster above this ratio."""
GPU_SIZE, GPU_TIMES = 4096, 5
"""Size of the square matrices that a GPU multiplies, and the number of timed products."""
MAX_TIMED_ROWS, MAX_TIMED_STEPS = 256, 2**27
"""Maximum number of rows and of multiplications of a product that is timed on a CPU."""
MAX_TIMED_SHAPES = 4
"""Number of shapes that are timed: those with the most work."""
BUDGET_SECONDS, MIN_ROUNDS, MAX_ROUNDS = 0.3, 3, 9
"""Time for the rounds after the first one, and the bounds on their number."""


class MatmulSeconds(NamedTuple):
    """Seconds of matrix products in each dtype; infinite if the device cannot compute in the dtype."""

    float32: float
    bfloat16: float

    @property
    def ratio(self) -> float:
        """The speed of bfloat16 as a multiple of that of float32."""
        return self.float32 / self.bfloat16


class Product(NamedTuple):
    """A matrix product of a step, (rows, inputs) times (inputs, outputs), for `layers` linear layers of that shape."""

    rows: int
    inputs: int
    outputs: int
    layers: int


class DtypeDecision(NamedTuple):
    """The chosen dtype, the reason as text for people, and the measured figures."""

    dtype: Dtype
    why: str
    figures: dict[str, Any]


def matrix_products(model: nn.Module, tokens: int) -> list[Product]:
    """Return the matrix products of a step over so many tokens, those with the most work first."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    shapes: Counter[tuple[int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            shapes[module.in_features, module.out_features] += 1
        elif isinstance(module, Conv1D):
            shapes[int(module.weight.shape[0]), int(module.weight.shape[1])] += 1
    products = [Product(tokens, *shape, count) for shape, count in shapes.items()]
    # Of equal work, the tuple itself decides, so that the order never depends on the model's.
    return sorted(products, key=lambda p: (-p.inputs * p.outputs * p.layers, p))[:MAX_TIMED_SHAPES]


def choose_training_dtype(device: str, products: Sequence[Product], trains_all: bool = False) -> DtypeDecision:
    """Return the dtype for a training on a device: bfloat16 if its own products are clearly faster in it.

    `trains_all`: the weights themselves are trained, so that their gradients are products, too.
    """
    if not device.startswith("cpu"):
        faster = bfloat16_is_faster(device)
        dtype: Dtype = "bfloat16" if faster else "float32"
        return DtypeDecision(dtype, f"{device} is {'' if faster else 'not '}clearly faster in bfloat16", {})
    if not any("bf16" in flag for flag in processor_flags()) or not products:
        return DtypeDecision("float32", "the processor has no unit for bfloat16", {"processor": processor()})
    import torch

    inputs = {
        "processor": processor(), "torch": torch.__version__,
        "products": [list(product) for product in products], "trains_all": trains_all,
    }  # fmt: skip
    name = f"{inputs['processor']} torch {torch.__version__} {fingerprint(inputs)[:16]}"
    seconds = _cached(name, lambda: measure_products(products, trains_all), inputs)
    dtype = "bfloat16" if seconds.ratio > MIN_SPEEDUP else "float32"
    times = f"{1e3 * seconds.float32:.1f} ms in float32 and {1e3 * seconds.bfloat16:.1f} ms in bfloat16"
    why = f"the products of a step take {times} on one thread ({inputs['processor']})"
    return DtypeDecision(dtype, why, {**inputs, **seconds._asdict(), "ratio": seconds.ratio, "needed": MIN_SPEEDUP})


def measure_products(products: Sequence[Product], trains_all: bool = False) -> MatmulSeconds:
    """Return the seconds of a step's products, forward and backward, extrapolated from smaller products.

    Both dtypes are timed in turns; the round with the median ratio counts.
    """
    import torch

    # One thread, and its CPU time instead of wall time: other work on the machine must not decide.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rounds(products, trains_all)
    finally:
        torch.set_num_threads(threads)


def _rounds(products: Sequence[Product], trains_all: bool) -> MatmulSeconds:
    import torch

    tensors = {dtype: [_factors(p, dtype) for p in products] for dtype in (torch.float32, torch.bfloat16)}
    # The timed product is smaller than the real one, by this factor with all layers of the shape.
    scales = [_work(p) / _work(_smaller(p)) * p.layers for p in products]
    rounds, began = list[MatmulSeconds](), time.perf_counter()
    while len(rounds) <= MIN_ROUNDS or (len(rounds) <= MAX_ROUNDS and time.perf_counter() - began < BUDGET_SECONDS):
        rounds.append(MatmulSeconds(*(_timed(factors, scales, trains_all) for factors in tensors.values())))
    counted = sorted(rounds[1:], key=lambda seconds: seconds.ratio)  # the first round only warms up
    return counted[len(counted) // 2] if all(math.isfinite(seconds.bfloat16) for seconds in counted) else counted[0]


def _smaller(product: Product) -> Product:
    """Return a product that takes little time: with fewer rows, then with the longer side halved repeatedly."""
    rows, inputs, outputs = min(product.rows, MAX_TIMED_ROWS), product.inputs, product.outputs
    while rows * inputs * outputs > MAX_TIMED_STEPS:
        inputs, outputs = (inputs // 2, outputs) if inputs > outputs else (inputs, outputs // 2)
    return product._replace(rows=rows, inputs=inputs, outputs=outputs)


def _work(product: Product) -> int:
    return product.rows * product.inputs * product.outputs


def _factors(product: Product, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs (rows, inputs), weight (outputs, inputs) and gradient of the outputs (rows, outputs)."""
    import torch

    rows, inputs, outputs, _ = _smaller(product)
    return (
        torch.ones((rows, inputs), dtype=dtype),
        torch.ones((outputs, inputs), dtype=dtype),
        torch.ones((rows, outputs), dtype=dtype),
    )


def _timed(factors: Sequence[tuple[torch.Tensor, ...]], scales: Sequence[float], trains_all: bool) -> float:
    """Return the seconds of all products, each multiplied by its scale; infinite if the dtype has no products."""
    import torch

    seconds = 0.0
    for (inputs, weight, gradient), scale in zip(factors, scales, strict=True):
        began = time.thread_time()
        try:
            torch.mm(inputs, weight.t())  # (rows, outputs)
            torch.mm(gradient, weight)  # (rows, inputs)
            if trains_all:
                torch.mm(gradient.t(), inputs)  # (outputs, inputs)
        except RuntimeError:
            return math.inf
        seconds += scale * (time.thread_time() - began)
    return seconds


@lru_cache
def bfloat16_is_faster(device: str) -> bool:
    """Return whether a GPU is clearly faster in bfloat16 than in float32; False for any other device."""
    if not device.startswith("cuda"):
        return False
    import torch

    name = f"{torch.cuda.get_device_name(device)} torch {torch.__version__}"
    return _cached(name, lambda: measure(device), {}).ratio > MIN_SPEEDUP


def measure(device: str) -> MatmulSeconds:
    """Return the seconds of a large square product on a GPU, the minimum of several."""
    import torch

    return MatmulSeconds(_time_matmul(device, torch.float32), _time_matmul(device, torch.bfloat16))


def _time_matmul(device: str, dtype: torch.dtype) -> float:
    import torch

    seconds = list[float]()
    try:
        factor = torch.ones(GPU_SIZE, GPU_SIZE, device=device, dtype=dtype)
        for _ in range(GPU_TIMES + 1):  # the first one warms up
            began = time.perf_counter()
            torch.mm(factor, factor)
            torch.cuda.synchronize(device)  # products are queued; without it, only the queueing would be timed
            seconds.append(time.perf_counter() - began)
    except RuntimeError:
        return math.inf
    return min(seconds[1:])


def processor_flags() -> set[str]:
    """Return the names of the CPU's features, as torch reports them or else the kernel."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return {name for name, available in capabilities.items() if available is True}
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return set()


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lotune" / "number-formats"


def _cached(name: str, measure_now: Callable[[], MatmulSeconds], inputs: dict[str, Any]) -> MatmulSeconds:
    """Return the cached result of that name, else measure and cache it together with its inputs."""
    try:
        file = _folder() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.json"
    except RuntimeError:  # no home folder
        return measure_now()
    return _read_cache(file) or _write_cache(file, measure_now(), inputs)


def _write_cache(file: Path, seconds: MatmulSeconds, inputs: dict[str, Any]) -> MatmulSeconds:
    """Write a result and return it, or return the one that another process wrote in the meantime."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(json.dumps({**seconds._asdict(), **inputs}))
    except FileExistsError:
        return _read_cache(file) or seconds
    except OSError:  # without a writable cache, each process measures for itself
        pass
    return seconds


def _read_cache(file: Path) -> MatmulSeconds | None:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return MatmulSeconds(float(stored["float32"]), float(stored["bfloat16"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
