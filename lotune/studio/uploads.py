"""Files that a browser sends: written as they come, under a temporary name, and never served as a page."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from typing import BinaryIO

from lotune.data.file_readers import READERS
from lotune.disk_space import format_bytes, free_disk_bytes, is_disk_full
from lotune.studio.errors import CallError
from lotune.studio.workspace import RECIPE_SUFFIXES, Workspace, is_row_file

MARGIN_BYTES = 16 * 2**20
"""Bytes of the disk that an upload leaves free."""
WRITE_BYTES = 2**20


async def save_upload(
    workspace: Workspace, name: str, size: int | None, chunks: AsyncIterator[bytes], *, replace: bool
) -> int:
    """Write a file of rows or a recipe into the folder as it comes; return its size in bytes.

    `size` is the announced one, None if it is not known.

    Raises: CallError for a name that is not allowed or taken, or if the disk is full; then nothing remains.
    """
    path = workspace.path(name)
    if not is_row_file(name) and path.suffix.lower() not in RECIPE_SUFFIXES:
        known = ", ".join((*READERS, *RECIPE_SUFFIXES))
        raise CallError(415, "not_rows", f"{name} is no file of rows", f"files of rows and recipes end in {known}")
    if path.is_dir() or (path.exists() and not replace):
        raise CallError(409, "exists", f"{name} is in this folder already", "replace it, or give it another name")
    if size is not None and size + MARGIN_BYTES > free_disk_bytes(workspace.folder):
        raise _full(workspace, name, size)
    folder = workspace.own / "uploads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / secrets.token_hex(8)
        try:
            with temporary.open("wb") as file:
                written = await _write(chunks, file)
                await asyncio.to_thread(os.fsync, file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise _full(workspace, name, size) from None
        raise CallError(507, "not_written", f"{name} cannot be written: {error.strerror}") from None
    return written


async def _write(chunks: AsyncIterator[bytes], file: BinaryIO) -> int:
    waiting, written = bytearray(), 0
    async for chunk in chunks:
        waiting += chunk
        written += len(chunk)
        if len(waiting) >= WRITE_BYTES:
            await asyncio.to_thread(file.write, bytes(waiting))
            waiting.clear()
    file.write(waiting)
    file.flush()
    return written


def _full(workspace: Workspace, name: str, size: int | None) -> CallError:
    free = format_bytes(free_disk_bytes(workspace.folder))
    of = f" of {format_bytes(size)}" if size is not None else ""
    return CallError(507, "disk_full", f"{name}{of} does not fit: {free} are free on this disk", "free some space")
