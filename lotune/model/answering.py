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
"""Start of `AnswerDtype.why` if float32 does not fit into memory."""


class AnswerDtype(NamedTuple):
    """The name of a dtype, and the reason for it as text for people."""

    dtype: Dtype
    why: str


def choose_answer_dtype(requested: Dtype, settings: BaseSettings, device: str) -> AnswerDtype:
    """Return the dtype in which a model generates on a device; `requested` is the one of the settings.

    On a CPU, "auto" is float32 if the weights fit into the free memory: a verdict then does not depend on the rest of
    the batch. On a GPU it is the faster dtype.

    Raises: ModelError as `load_model` does.
    """
    if requested != "auto":
        return AnswerDtype(requested, "named in the settings")
    if not device.startswith("cpu"):
        return AnswerDtype(_faster(device), f"the faster one on {device}")
    import torch

    free = free_memory_bytes(torch.device("cpu"))
    needed = int(MEMORY_HEADROOM * torch.float32.itemsize * count_parameters(meta_model(settings)))
    if free is None or needed <= free:
        return AnswerDtype("float32", "the answers then do not depend on the batch")
    why = f"{TOO_LARGE} {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
    return AnswerDtype("bfloat16", why)


def _faster(device: str) -> Dtype:
    import torch

    return "bfloat16" if resolve_dtype("auto", device) == torch.bfloat16 else "float32"


@contextmanager
def on_device_if_it_fits(model: Any, device: str) -> Iterator[None]:
    """Move a model to a device for the block, or to the CPU if it does not fit; afterwards it is on the CPU."""
    import torch

    weights = list(model.parameters())
    needed = MEMORY_HEADROOM * sum(weight.nbytes for weight in weights)
    fits = not device.startswith("cuda") or (free_memory_bytes(torch.device(device)) or 0) >= needed
    # MPS has no float64, in which the merge check repeats close comparisons.
    is_supported = not device.startswith("mps") or all(weight.dtype != torch.float64 for weight in weights)
    try:
        yield model.to(device if fits and is_supported else "cpu")
    finally:
        model.to("cpu")
        release_memory()
