"""A sequence that stores its items in a temporary file, so that its memory hardly grows with their number."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Generic, TypeVar, overload

from lotune.disk_space import disk_full_as_run_error

T = TypeVar("T")

MAX_BYTES_IN_MEMORY = 2**25
"""Bytes up to which the items stay in memory; beyond, they go to a file without a name, deleted with the list."""

# Measured on 300,000 instruction rows: reading one by one took 51 s, 256 at a time 40 s.
BLOCK = 256
"""Items read from the file at a time."""


class DiskList(Sequence[T], Generic[T]):
    """A read-only list on disk, in the folder that TMPDIR names.

    `dump` turns an item into bytes and `load` turns them back. An item takes 8 bytes of memory, and 8 more in each
    selection.

    >>> letters = DiskList(["a", "bc", "d"], str.encode, bytes.decode)
    >>> letters[1], list(letters.select([2, 0])), letters[-2:][0]
    ('bc', ['d', 'a'], 'bc')
    """

    def __init__(self, items: Iterable[T], dump: Callable[[T], bytes], load: Callable[[bytes], T]) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, _close_quietly, self._file)
        self._load = load
        self._ends = array("q", [0])
        self._owner: DiskList[T] | None = None
        with disk_full_as_run_error(Path(gettempdir())):
            for item in items:
                self._ends.append(self._ends[-1] + self._file.write(dump(item)))
            self._file.flush()
        self._indices: Sequence[int] = range(len(self._ends) - 1)

    def select(self, indices: Iterable[int]) -> DiskList[T]:
        """Return the items at these indices, in this order, as a list over the same file."""
        selection: DiskList[T] = object.__new__(type(self))
        selection._file, selection._load, selection._ends = self._file, self._load, self._ends
        selection._indices = array("q", (self._indices[index] for index in indices))
        # The finalizer of the list that owns the file closes it, so a selection keeps that list alive.
        selection._owner = self._owner or self
        return selection

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> DiskList[T]: ...
    def __getitem__(self, index: int | slice) -> T | DiskList[T]:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return next(self._read([self._indices[index]]))

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same items in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(left == right for left, right in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[T]:
        for first in range(0, len(self), BLOCK):
            yield from self._read(self._indices[first : first + BLOCK])

    def _read(self, indices: Sequence[int]) -> Iterator[T]:
        """Yield the items at these indices of the file; items close together are read at once."""
        starts, ends = [self._ends[index] for index in indices], [self._ends[index + 1] for index in indices]
        start, size = min(starts), max(ends) - min(starts)
        # A random selection spans most of the file; one read for all of it would hold the whole file in memory.
        if size > 4 * sum(end - begin for begin, end in zip(starts, ends, strict=True)):
            for index in indices:
                yield from self._read([index])
            return
        self._file.seek(start)
        content = self._file.read(size)
        for begin, end in zip(starts, ends, strict=True):
            yield self._load(content[begin - start : end - start])


def _close_quietly(file: IO[bytes]) -> None:
    # Closing flushes, which fails again on a full disk; the write that failed first has raised the error.
    with suppress(OSError):
        file.close()


def evenly_spaced(items: Sequence[T], most: int) -> Sequence[T]:
    """Return at most `most` of the items, evenly spaced over all of them.

    >>> evenly_spaced(range(7), 3), evenly_spaced(range(2), 3), evenly_spaced([], 3)
    ([0, 2, 4], [0, 1], [])
    """
    count = min(most, len(items))
    return select(items, (number * len(items) // count for number in range(count)))


def select(items: Sequence[T], indices: Iterable[int]) -> Sequence[T]:
    """Return the items at these indices, in this order: a DiskList of a DiskList, a list of any other sequence."""
    return items.select(indices) if isinstance(items, DiskList) else [items[index] for index in indices]
