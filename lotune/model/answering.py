"""The dtype that a model generates in, chosen so that an answer does not depend on the rest of its batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from lotune.memory import free_memory_bytes, release_memory
from lotune.model.loading import count_parameters, meta_model, resolve_dtype
from lotune.model.settings import BaseSettings, Dtype

MEMORY_HEADROOM = 1.2
"""Memory that a model takes while it generates, as a multiple of its weights."""


TOO_LARGE = "float32 needs"
"""Beginning of the reason for a dtype if float32 does not fit into memory."""


class Format(NamedTuple):
    """A dtype by its name, and what decided it."""

    dtype: Dtype
    why: str


def answering_format(wanted: Dtype, settings: BaseSettings, device: str) -> Format:
    """Return the dtype in which a model generates on a device; `wanted` is what the settings name.

    "auto" is float32 on a processor, if the weights fit into the free memory in it: then a verdict does not depend on
    the rest of the batch. On a GPU it is the dtype in which the GPU is faster.
    Raises: ModelError as `load_model`.
    """
    if wanted != "auto":
        return Format(wanted, "named in the settings")
    if not device.startswith("cpu"):
        return Format(_faster(device), f"the faster one on {device}")
    import torch

    free = free_memory_bytes(torch.device("cpu"))
    needed = int(MEMORY_HEADROOM * torch.float32.itemsize * count_parameters(meta_model(settings)))
    if free is None or needed <= free:
        return Format("float32", "the answers then do not depend on the batch")
    found = f"{TOO_LARGE} {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
    return Format("bfloat16", found)


def _faster(device: str) -> Dtype:
    import torch

    return "bfloat16" if resolve_dtype("auto", device) == torch.bfloat16 else "float32"


@contextmanager
def placed(model: Any, device: str) -> Iterator[None]:
    """Move a model, within the block, to a device if that has room for it; afterwards it is on the processor."""
    import torch

    weights = list(model.parameters())
    needed = MEMORY_HEADROOM * sum(weight.nbytes for weight in weights)
    fits = not device.startswith("cuda") or (free_memory_bytes(torch.device(device)) or 0) >= needed
    is_supported = not device.startswith("mps") or all(weight.dtype != torch.float64 for weight in weights)
    try:
        yield model.to(device if fits and is_supported else "cpu")
    finally:
        model.to("cpu")
        release_memory()
