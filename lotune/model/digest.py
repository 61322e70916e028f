"""The digest of a base's weights, which an adapter stores to identify its base.

It is the sha256 over the name, dtype, shape and content digest of each tensor in the safetensors files, in the order of
the names. It does not depend on how the tensors are divided into files, on the folder, or on the dtype in which the
model is loaded.

A base of billions of weights takes seconds, because only samples of large tensors are read: PIECES evenly spaced pieces
of PIECE bytes if a tensor has more than MAX_WHOLE_BYTES. A change that lies between these pieces does not show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from lotune.errors import ModelError

MAX_WHOLE_BYTES = 16 * 2**20
"""Size of a tensor up to which all its bytes are read."""
PIECES, PIECE = 256, 2**16
MAX_HEADER_BYTES = 100 * 2**20
"""Largest header that safetensors itself accepts."""


def weights_digest(files: Sequence[Path]) -> str:
    """Return the digest of the tensors in safetensors files. Raises: ModelError if a file is damaged."""
    # Size and time of change are part of the cache's key: a file that was written again is read again.
    return _digest(tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))


@lru_cache(maxsize=8)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the digest of files of this size and age; a process reads them once."""
    parts: dict[str, bytes] = {}
    for file, *_ in files:
        with file.open("rb") as stream:
            try:
                for name, description, first, last in _tensors(stream):
                    parts[name] = description + _bytes_digest(stream, first, last)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(str(file), f"is damaged: {error}", "safetensors") from None
    whole = hashlib.sha256()
    for name in sorted(parts):
        whole.update(json.dumps(name).encode() + parts[name])
    return whole.hexdigest()


def _tensors(stream: BinaryIO) -> list[tuple[str, bytes, int, int]]:
    """Return (name, dtype and shape, first byte, byte after the last) of each tensor, from the file's header."""
    size = int.from_bytes(stream.read(8), "little")
    # Checked before it is read: a damaged length could ask for all of the memory.
    if size > MAX_HEADER_BYTES:
        raise ValueError("its header is too long")
    header: dict[str, Any] = json.loads(stream.read(size))
    tensors = []
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            description = json.dumps([entry["dtype"], entry["shape"]]).encode()
            tensors.append((name, description, 8 + size + first, 8 + size + last))
    return tensors


def _bytes_digest(stream: BinaryIO, first: int, last: int) -> bytes:
    """Return the sha256 of the bytes from `first` to before `last`, or of evenly spaced pieces of them."""
    digest = hashlib.sha256()
    spans = [(first, last - first)]
    if last - first > MAX_WHOLE_BYTES:
        last_offset = last - first - PIECE
        spans = [(first + last_offset * number // (PIECES - 1), PIECE) for number in range(PIECES)]
    for start, length in spans:
        stream.seek(start)
        digest.update(stream.read(length))
    return digest.digest()
