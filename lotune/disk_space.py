"""Disk space: checked before long work, and named in the error if it runs out."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lotune.errors import LotuneError, RunError

# EDQUOT does not exist on Windows.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DISK_FULL_MESSAGES = re.compile(
    r"No space left|File too large|quota exceeded|os error (28|27|122)\b|\d+ requested and \d+ written"
    r"|PytorchStreamWriter failed writing"
)
"""Messages of safetensors, NumPy and PyTorch, whose errors carry no errno."""


def require_free_space(folder: Path, needed: int, purpose: str, replaced: Iterable[Path] = ()) -> None:
    """Raise RunError if the disk of a folder has fewer than `needed` free bytes.

    The contents of `replaced` folders count as free. The message names the purpose, the bytes needed and those free.
    """
    # Files of an earlier attempt are written again, so the space that they take is available.
    free = free_disk_bytes(folder) + sum(
        file.stat().st_size for old in replaced for file in old.rglob("*") if file.is_file()
    )
    if free < needed:
        raise RunError(
            str(folder), f"{purpose} needs {format_bytes(needed)} on this disk, {format_bytes(free)} are free",
            remedy="free some space, or put the runs on another disk with runs=FOLDER",
        )  # fmt: skip


@contextmanager
def disk_full_as_run_error(path: Path, needed: int = 0) -> Iterator[None]:
    """Raise RunError if the disk fills up in this block, which writes `path` (of `needed` bytes, if known).

    The RunError replaces the exception of the library.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LotuneError) or not is_disk_full(error):
            raise
        raise disk_full_error(path, error, needed) from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that a disk is full, or a quota or file size limit reached.

    >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    >>> is_disk_full(OSError("512 requested and 0 written"))
    True
    >>> is_disk_full(OSError(errno.EACCES, "Permission denied")), is_disk_full(ValueError("No, space left out"))
    (False, False)
    """
    # An errno decides; the text of such an error can hold a file name with any words.
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return bool(_DISK_FULL_MESSAGES.search(str(error)))


def free_disk_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a path, which need not exist yet."""
    return shutil.disk_usage(existing_path(path)).free


def existing_path(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def format_bytes(size: int) -> str:
    """Format a number of bytes.

    >>> format_bytes(900), format_bytes(3 * 2**19), format_bytes(5 * 2**30)
    ('900 B', '1.5 MiB', '5.0 GiB')
    """
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:.1f} {unit}"
    return f"{size} B"


def disk_full_error(path: Path, error: BaseException, needed: int) -> RunError:
    """Return the error for a path that cannot be written because the disk is full; `needed` bytes, 0 if unknown."""
    reason = getattr(error, "strerror", None) or "no space left"
    fault = f"cannot be written ({reason}): {format_bytes(free_disk_bytes(path))} are free on its disk"
    if needed:
        fault += f", it needs {format_bytes(needed)}"
    return RunError(
        str(path), fault, remedy="free some space and run the same command again; files written before are intact"
    )
