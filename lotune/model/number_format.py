"""Whether a device computes faster in bfloat16: measured once, and remembered for the machine.

A run that goes on has to find the number format that it began with, and so has every process of a training: what was
measured first holds, for a kind of device and a version of torch, as long as its file is there.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

CLEARLY = 1.5
"""A device is faster in bfloat16 where it is so many times faster."""
SIZES = {"cpu": 512, "cuda": 4096}
"""Square matrices of this size are multiplied: some milliseconds of work."""
TIMES = 5


class Seconds(NamedTuple):
    """What a product takes in each number format; infinite where the device does not compute in it."""

    float32: float
    bfloat16: float


@lru_cache
def computes_bfloat16(device: str) -> bool:
    """Whether a device is clearly faster in bfloat16 than in float32; no processor without a unit for it is asked."""
    name = _name(device)
    if name is None:
        return False
    file = _folder() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', f'{name} torch {torch.__version__}')}.json"
    found = _remembered(file) or _remember(file, measure(device))
    return found.float32 > CLEARLY * found.bfloat16


def measure(device: str) -> Seconds:
    """The seconds of a product, the least of several; on a processor those of its own work, whatever else it does."""
    return Seconds(_product(device, torch.float32), _product(device, torch.bfloat16))


def _product(device: str, dtype: torch.dtype) -> float:
    on_gpu, size = device.startswith("cuda"), SIZES[device.partition(":")[0]]
    clock, found = time.perf_counter if on_gpu else time.process_time, list[float]()
    try:
        factor = torch.ones(size, size, device=device, dtype=dtype)
        for _ in range(TIMES + 1):  # the first one warms up
            began = clock()
            torch.mm(factor, factor)
            if on_gpu:
                torch.cuda.synchronize(device)
            found.append(clock() - began)
    except RuntimeError:
        return math.inf
    return min(found[1:])


def _name(device: str) -> str | None:
    """The kind of a device that can be faster in bfloat16; None for any other."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    units = sorted(flag for flag in processor_flags() if "bf16" in flag) if device.startswith("cpu") else []
    return " ".join(["cpu", *units]) if units else None


def processor_flags() -> set[str]:
    """What the processor can do, of the names that matter here: torch's word, else the kernel's."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return {name for name, there in capabilities.items() if there is True}
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return set()


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lotune" / "number-formats"


def _remember(file: Path, found: Seconds) -> Seconds:
    """What was measured, or what another process has remembered before."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(json.dumps(found._asdict()))
    except FileExistsError:
        return _remembered(file) or found
    except (OSError, RuntimeError):  # no room, or no home: it is measured again each time
        pass
    return found


def _remembered(file: Path) -> Seconds | None:
    try:
        return Seconds(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
