"""Text of files in bounded pieces: lines, and items of a json array; one that is too long is never held."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

MAX_ROW_BYTES = 4_000_000
"""Bytes that a row may have where the settings do not say."""
MARK = b"\xef\xbb\xbf"
"""UTF-8's byte-order mark."""
_CHUNK = 1 << 20
_NEAR_END = 16
"""Characters before the end of a text within which a token may be cut off."""
_AFTER_ITEM = tuple(" \t\r\n,]")
_NO_BLANK = re.compile(r"[^ \t\r\n]")
_QUOTED, _OUTSIDE, _INSIDE = re.compile(r'"|\\.', re.DOTALL), re.compile(r'["\[\]{},]'), re.compile(r'["\[\]{}]')


def too_long(most: int) -> str:
    """The reason why a row of more than `most` bytes is not read.

    >>> too_long(4_000_000)
    'more than 4,000,000 bytes'
    """
    return f"more than {most:,} bytes"


def bounded_lines(
    path: Path, most: int, on_piece: Callable[[bytes], None] = lambda _: None
) -> Iterator[tuple[int, int, bytes, int]]:
    """Number (from 1), byte offset, bytes and length in bytes of each line, without line end and byte-order mark.

    A line of more than `most` bytes comes as no bytes with its true length; its pieces, line end included, are given to
    `on_piece` before that.
    """
    offset, ending = 0, most + len(MARK) + 2
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, ending), b""), 1):
            mark = len(MARK) if number == 1 and line.startswith(MARK) else 0
            size, end, whole = len(line), line[-2:], line.endswith(b"\n") or len(line) < ending
            if whole:
                content = line[mark:].removesuffix(b"\n").removesuffix(b"\r")
                if len(content) > most:
                    on_piece(line[mark:])
            else:
                on_piece(line[mark:])
                while not end.endswith(b"\n") and (piece := file.readline(_CHUNK)):
                    on_piece(piece)
                    size, end = size + len(piece), (end + piece)[-2:]
            bare = size - mark - (2 if end == b"\r\n" else end.endswith(b"\n"))
            yield number, offset + mark, content if whole and bare <= most else b"", bare
            offset += size


class Quotes:
    """Whether a cell of csv is open, within quotes, where a line ends; nothing of the line is held.

    `within`: the line begins inside of quotes.

    >>> line = Quotes(within=False)
    >>> line.read(b'1,"a ""word"",')
    >>> line.open, line.shortest()
    (True, '"')
    """

    def __init__(self, within: bool) -> None:
        self._within = within
        self._state = "quoted" if within else "start"

    @property
    def open(self) -> bool:
        """Whether what was read ends within quotes."""
        return self._state == "quoted"

    def read(self, piece: bytes) -> None:
        """Read on, in a piece of the line."""
        place = 0
        while place < len(piece) and self._state != "broken":
            if self._state in ("plain", "quoted"):
                found = piece.find(b"," if self._state == "plain" else b'"', place)
                if found < 0:
                    return
                self._state, place = "start" if self._state == "plain" else "closed", found + 1
                continue
            character, place = piece[place : place + 1], place + 1
            if character == b'"':
                self._state = "quoted"
            elif character == b",":
                self._state = "start"
            elif self._state == "start":
                self._state = "plain"
            elif character not in b"\r\n":
                self._state = "broken"

    def shortest(self) -> str:
        """Return the shortest line after which as much is open, or broken."""
        if self._state == "broken":
            return '"x' if self._within else '""x'
        return '"' if self.open != self._within else "x"


def array_items(path: Path, size: int = _CHUNK, most: int = MAX_ROW_BYTES) -> Iterator[str | None]:
    """The text of each item of an array, a few of `size` characters held at a time; None where it has more than `most`
    bytes.

    Raises: ValueError or RecursionError where the file is no array, or broken.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        array = _Array(partial(file.read), size, most)
        if array.mark() != "[":
            raise ValueError("no array")
        following = array.mark()
        while following != "]":
            array.place -= 1
            yield array.item()
            if (following := array.mark()) == ",":
                following = array.mark()
                if following == "]":
                    raise ValueError("a comma before the end")
            elif following != "]":
                raise ValueError("no comma between items")
        if array.mark():
            raise ValueError("something after the array")


class _Array:
    """The text of a json array as it is gone through: `text` is held, and `place` is how far it was read."""

    def __init__(self, read: Callable[[int], str], size: int, most: int) -> None:
        self._read, self._size, self._most = read, size, most
        self._scan = json.JSONDecoder().raw_decode
        self.text, self.place = read(size), 0

    def more(self) -> bool:
        """Read on and let go of what was gone past; False at the end."""
        found = self._read(max(self._size, len(self.text) - self.place))
        self.text, self.place = self.text[self.place :] + found, 0
        return bool(found)

    def mark(self) -> str:
        """The next character that is no blank, empty at the end; it is gone past."""
        while True:
            found = _NO_BLANK.search(self.text, self.place)
            if found:
                self.place = found.end()
                return found.group()
            self.place = len(self.text)
            if not self.more():
                return ""

    def item(self) -> str | None:
        """The text of the item that begins here, which is gone past; None where it is too long.

        Raises: ValueError where it is broken.
        """
        end = self._end()
        if end is not None and len((text := self.text[self.place : end]).encode()) <= self._most:
            self.place = end
            return text
        self._pass_item()
        return None

    def _end(self) -> int | None:
        """Where the item ends, None where that is too far away."""
        while True:
            near = len(self.text) - _NEAR_END
            try:
                end = self._scan(self.text, self.place)[1]
                if self.text[end : end + 1] in _AFTER_ITEM:
                    return end
                cut = end > near
            except json.JSONDecodeError as error:
                cut = error.pos > near or error.msg.startswith("Unterminated string")
            if not cut:
                raise ValueError("an item is broken")
            if len(self.text) - self.place > self._most:
                return None
            if not self.more():
                raise ValueError("an item is cut off")

    def _pass_item(self) -> None:
        """Go past the item by its brackets and quotes alone."""
        depth, quoted = 0, False
        while True:
            found = (_QUOTED if quoted else _INSIDE if depth else _OUTSIDE).search(self.text, self.place)
            if found is None:
                self.place = max(self.place, len(self.text) - self.text.endswith("\\"))
                if not self.more():
                    raise ValueError("an item is cut off")
                continue
            self.place = found.end()
            if found.group() == '"':
                quoted = not quoted
            elif not quoted and found.group() in "[{":
                depth += 1
            elif not quoted and not depth:
                self.place -= 1
                return
            elif not quoted:
                depth -= 1
