"""Memory: what is free, and what to lower where it runs out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lotune.errors import SettingsError

if TYPE_CHECKING:
    import torch

MEMORY = Path("/proc/meminfo")


def ran_out(error: BaseException) -> bool:
    """Whether an error means that there was no memory left, on the processor or on a GPU.

    >>> ran_out(MemoryError()), ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    (True, True)
    >>> ran_out(RuntimeError("expected scalar type Float"))
    False
    """
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, not imported here
    return known or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


@contextmanager
def naming_the_setting(setting: str, work: str, remedy: str) -> Iterator[None]:
    """A block of work; memory that runs out in it names the setting to change. Raises: SettingsError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        found = f"memory ran out in {work}"
        raise SettingsError(setting, found, remedy=f"{remedy}; the same command goes on from what is saved") from error


def free_bytes(device: torch.device) -> int | None:
    """Bytes of memory that are free on a device; None where the system does not say."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not MEMORY.exists():
        return None
    values = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines() if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def give_back() -> None:
    """Free what objects held that nobody refers to any longer, on GPUs too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
