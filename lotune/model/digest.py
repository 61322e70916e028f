"""A digest of a base's weights, by which an adapter knows the base that it was made for.

It is the sha256 of the name, the dtype, the shape and the sha256 of the bytes of each tensor in the safetensors files,
in the order of the names. Of tensors of more than WHOLE bytes, PIECES evenly spaced pieces of PIECE bytes count, with
the first and the last byte. So it does not depend on how tensors are divided into files, where these lie, or in which
dtype the model is loaded, and a base of billions of weights takes seconds. A change between the pieces of a large
tensor, and nowhere else, does not show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from lotune.errors import ModelError

WHOLE = 16 * 2**20
"""Bytes up to which all of a tensor counts."""
PIECES, PIECE = 256, 2**16
LONGEST_HEADER = 100 * 2**20
"""Largest header in bytes that safetensors itself accepts."""


def weights_digest(files: Sequence[Path]) -> str:
    """Return the digest of the tensors in safetensors files. Raises: ModelError where one is damaged."""
    return _digest(tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))


@lru_cache(maxsize=8)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the digest of files of this size and age, which are read once a process."""
    parts: dict[str, bytes] = {}
    for file, *_ in files:
        with file.open("rb") as stream:
            try:
                for name, what, first, last in _tensors(stream):
                    parts[name] = what + _bytes_digest(stream, first, last)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(str(file), f"is damaged: {error}", "safetensors") from None
    whole = hashlib.sha256()
    for name in sorted(parts):
        whole.update(json.dumps(name).encode() + parts[name])
    return whole.hexdigest()


def _tensors(stream: BinaryIO) -> list[tuple[str, bytes, int, int]]:
    """Return (name, dtype and shape, first byte, byte after the last) of each tensor, from the file's header."""
    size = int.from_bytes(stream.read(8), "little")
    if size > LONGEST_HEADER:
        raise ValueError("its header is too long")
    header: dict[str, Any] = json.loads(stream.read(size))
    tensors = []
    for name, about in header.items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            what = json.dumps([about["dtype"], about["shape"]]).encode()
            tensors.append((name, what, 8 + size + first, 8 + size + last))
    return tensors


def _bytes_digest(stream: BinaryIO, first: int, last: int) -> bytes:
    """Return the sha256 of what counts of the bytes from `first` to before `last`."""
    digest = hashlib.sha256()
    spans = [(first, last - first)]
    if last - first > WHOLE:
        last_offset = last - first - PIECE
        spans = [(first + last_offset * number // (PIECES - 1), PIECE) for number in range(PIECES)]
    for start, length in spans:
        stream.seek(start)
        digest.update(stream.read(length))
    return digest.digest()
