"""Free memory, and the error message when it runs out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lotune.errors import SettingsError

if TYPE_CHECKING:
    import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory, on the CPU or on a GPU.

    >>> is_out_of_memory(MemoryError())
    True
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    True
    >>> is_out_of_memory(RuntimeError("expected scalar type Float"))
    False
    """
    # torch.OutOfMemoryError is known by its name: importing torch takes too long here
    has_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return has_type or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


@contextmanager
def oom_names_setting(setting: str, work: str, remedy: str) -> Iterator[None]:
    """Raise SettingsError naming the setting to change if memory runs out in this block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = f"{remedy}; the same command resumes from what is saved"
        raise SettingsError(setting, f"memory ran out in {work}", remedy=remedy) from error


def free_memory_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes; None if the device does not report it."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None


def release_memory() -> None:
    """Collect garbage and empty the cache of CUDA memory."""
    import torch

    # Reference cycles keep tensors alive until a collection; the CUDA cache can return only what is free by then.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
