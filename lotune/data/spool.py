"""A sequence whose items are kept in a temporary file, so that memory stays flat however many there are."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Generic, TypeVar, overload

from lotune.disk import writing

T = TypeVar("T")

MOST_IN_MEMORY = 2**25
"""Bytes up to which the items stay in memory; beyond, they go to a file without a name, which ends with the spool."""

BLOCK = 256
"""Items that are read at once."""


class Spool(Sequence[T], Generic[T]):
    """Items that are written once, in their order, and read as they are asked for; each costs 8 bytes of memory, and
    8 more in each selection of them. TMPDIR says where the file is.

    `dump` makes bytes of an item, of which `load` makes it again.

    >>> spool = Spool(["a", "bc", "d"], str.encode, bytes.decode)
    >>> spool[1], list(spool.take([2, 0])), spool[-2:][0]
    ('bc', ['d', 'a'], 'bc')
    """

    def __init__(self, items: Iterable[T], dump: Callable[[T], bytes], load: Callable[[bytes], T]) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(MOST_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, _let_go, self._file)
        self._load = load
        self._ends = array("q", [0])
        self._whole: Spool[T] | None = None
        with writing(Path(gettempdir())):
            for item in items:
                self._ends.append(self._ends[-1] + self._file.write(dump(item)))
            self._file.flush()
        self._places: Sequence[int] = range(len(self._ends) - 1)

    def take(self, places: Iterable[int]) -> Spool[T]:
        """The items at these places, in this order, as a sequence over the same file."""
        taken: Spool[T] = object.__new__(type(self))
        taken._file, taken._load, taken._ends = self._file, self._load, self._ends
        taken._places = array("q", (self._places[place] for place in places))
        taken._whole = self._whole or self  # whose file ends with it
        return taken

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Spool[T]: ...
    def __getitem__(self, index: int | slice) -> T | Spool[T]:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
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


def _let_go(file: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, which has been told
        file.close()


def taken(items: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The items at these places, in this order: those of a spool as one, others as a list."""
    return items.take(places) if isinstance(items, Spool) else [items[place] for place in places]
