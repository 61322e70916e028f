"""A digest of a base's weights, by which an adapter knows the base that it was made for.

It is the sha256 over the name, the number format and the shape of each tensor in the safetensors files, in the order of
the names, and over the sha256 of its bytes: all of them up to WHOLE, of larger tensors PIECES pieces of PIECE bytes at
even distances, the first and the last byte among them. So it is the same however the tensors are divided into files,
wherever these lie, and whatever number format the model is loaded in; a base of billions of weights takes seconds. What
is changed between the pieces of a large tensor, and nowhere else, is not seen.
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
"""Bytes of a header that safetensors itself refuses to exceed."""


def weights_digest(files: Sequence[Path]) -> str:
    """Return the digest of the tensors in safetensors files. Raises: ModelError where one is damaged."""
    return _digest(tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))


@lru_cache(maxsize=8)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The digest of files of this size and age, which are read once a process."""
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
    """(name, number format and shape, first byte, byte after the last) of each tensor, by the file's header."""
    size = int.from_bytes(stream.read(8), "little")
    if size > LONGEST_HEADER:
        raise ValueError("its header is too long")
    header: dict[str, Any] = json.loads(stream.read(size))
    found = []
    for name, about in header.items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            what = json.dumps([about["dtype"], about["shape"]]).encode()
            found.append((name, what, 8 + size + first, 8 + size + last))
    return found


def _bytes_digest(stream: BinaryIO, first: int, last: int) -> bytes:
    """The sha256 of what counts of the bytes from `first` to before `last`."""
    found = hashlib.sha256()
    spans = [(first, last - first)]
    if last - first > WHOLE:
        room = last - first - PIECE
        spans = [(first + room * number // (PIECES - 1), PIECE) for number in range(PIECES)]
    for start, length in spans:
        stream.seek(start)
        found.update(stream.read(length))
    return found.digest()
