"""A sequence whose items are kept in a temporary file, so that memory stays flat however many there are."""

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
"""Bytes up to which the items stay in memory; beyond, they go to a file without a name, which ends with the spool."""

BLOCK = 256
"""Items that are read at once."""


class DiskList(Sequence[T], Generic[T]):
    """Items that are written once, in their order, and read as they are asked for; each costs 8 bytes of memory, and
    8 more in each selection of them. TMPDIR says where the file is.

    `dump` makes bytes of an item, of which `load` makes it again.

    >>> spool = DiskList(["a", "bc", "d"], str.encode, bytes.decode)
    >>> spool[1], list(spool.select([2, 0])), spool[-2:][0]
    ('bc', ['d', 'a'], 'bc')
    """

    def __init__(self, items: Iterable[T], dump: Callable[[T], bytes], load: Callable[[bytes], T]) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, _close_quietly, self._file)
        self._load = load
        self._ends = array("q", [0])
        self._whole: DiskList[T] | None = None
        with disk_full_as_run_error(Path(gettempdir())):
            for item in items:
                self._ends.append(self._ends[-1] + self._file.write(dump(item)))
            self._file.flush()
        self._places: Sequence[int] = range(len(self._ends) - 1)

    def select(self, places: Iterable[int]) -> DiskList[T]:
        """The items at these places, in this order, as a sequence over the same file."""
        taken: DiskList[T] = object.__new__(type(self))
        taken._file, taken._load, taken._ends = self._file, self._load, self._ends
        taken._places = array("q", (self._places[place] for place in places))
        taken._whole = self._whole or self  # whose file ends with it
        return taken

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> DiskList[T]: ...
    def __getitem__(self, index: int | slice) -> T | DiskList[T]:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return next(self._read([self._places[index]]))

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same items."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[T]:
        for first in range(0, len(self), BLOCK):
            yield from self._read(self._places[first : first + BLOCK])

    def _read(self, places: Sequence[int]) -> Iterator[T]:
        """The items at these places of the file, which is read in one go where they lie close together."""
        starts, ends = [self._ends[place] for place in places], [self._ends[place + 1] for place in places]
        start, size = min(starts), max(ends) - min(starts)
        if size > 4 * sum(end - begin for begin, end in zip(starts, ends, strict=True)):
            for place in places:
                yield from self._read([place])
            return
        self._file.seek(start)
        content = self._file.read(size)
        for begin, end in zip(starts, ends, strict=True):
            yield self._load(content[begin - start : end - start])


def _close_quietly(file: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, which has been told
        file.close()


def select(items: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The items at these places, in this order: those of a spool as one, others as a list."""
    return items.select(places) if isinstance(items, DiskList) else [items[place] for place in places]
