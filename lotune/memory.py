"""Memory: what is free, and what to lower where it runs out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lotune.errors import SettingsError

if TYPE_CHECKING:
    import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there was no memory left, on the processor or on a GPU.

    >>> is_out_of_memory(MemoryError())
    True
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    True
    >>> is_out_of_memory(RuntimeError("expected scalar type Float"))
    False
    """
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, not imported here
    return known or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


@contextmanager
def oom_names_setting(setting: str, work: str, remedy: str) -> Iterator[None]:
    """A block of work; memory that runs out in it names the setting to change. Raises: SettingsError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        found = f"memory ran out in {work}"
        raise SettingsError(setting, found, remedy=f"{remedy}; the same command goes on from what is saved") from error


def free_memory_bytes(device: torch.device) -> int | None:
    """Bytes of memory that are free on a device; None for a device that does not say."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None


def release_memory() -> None:
    """Free what objects held that nobody refers to any longer, on GPUs too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
