"""Read lines of a file, or items of a JSON array, in bounded memory.

A row longer than the limit is skipped piece by piece, so that a bad file, such as one without newlines, cannot fill the
memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

MAX_ROW_BYTES = 4_000_000
"""Default limit of a row in bytes."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8's byte-order mark."""
_CHUNK = 1 << 20
# The longest token that the decoder reports at its start is -Infinity, with 9 characters; escapes have up to 12.
_NEAR_END = 16
"""Characters before the end of the text in which a JSON error may only mean that a token is cut off."""
_AFTER_ITEM = tuple(" \t\r\n,]")
_NO_BLANK = re.compile(r"[^ \t\r\n]")
_QUOTED, _OUTSIDE, _INSIDE = re.compile(r'"|\\.', re.DOTALL), re.compile(r'["\[\]{},]'), re.compile(r'["\[\]{}]')


def too_long(limit: int) -> str:
    """Return the reason why a row of more than `limit` bytes is not read.

    >>> too_long(4_000_000)
    'more than 4,000,000 bytes'
    """
    return f"more than {limit:,} bytes"


def bounded_lines(
    path: Path, limit: int, on_piece: Callable[[bytes], None] = lambda _: None
) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield number (from 1), byte offset, content and length in bytes of each line.

    Content and length exclude the line end and the byte-order mark. The content of a line of more than `limit` bytes is
    empty, its length the true one; before it is yielded, its pieces, including the line end, are passed to `on_piece`.
    """
    with path.open("rb") as file:
        yield from lines_of(file, limit, on_piece)


def lines_of(
    file: IO[bytes], limit: int, on_piece: Callable[[bytes], None] = lambda _: None
) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield the lines of an open file as `bounded_lines` does those of a path."""
    # Room for the mark and "\r\n", so that a line of exactly `limit` bytes arrives whole.
    offset, read_size = 0, limit + len(BYTE_ORDER_MARK) + 2
    for number, line in enumerate(iter(partial(file.readline, read_size), b""), 1):
        mark_size = len(BYTE_ORDER_MARK) if number == 1 and line.startswith(BYTE_ORDER_MARK) else 0
        size, end, is_complete = len(line), line[-2:], line.endswith(b"\n") or len(line) < read_size
        if is_complete:
            content = line[mark_size:].removesuffix(b"\n").removesuffix(b"\r")
            if len(content) > limit:
                on_piece(line[mark_size:])
        else:
            on_piece(line[mark_size:])
            while not end.endswith(b"\n") and (piece := file.readline(_CHUNK)):
                on_piece(piece)
                # Two bytes across pieces, as "\r" and "\n" may be in different ones.
                size, end = size + len(piece), (end + piece)[-2:]
        length = size - mark_size - (2 if end == b"\r\n" else end.endswith(b"\n"))
        yield number, offset + mark_size, content if is_complete and length <= limit else b"", length
        offset += size


class Quotes:
    """State of CSV quoting after part of a line: whether a quoted cell is open. It stores nothing of the line.

    With `within`, the line begins inside a quoted cell. The rules are those of csv.reader with `strict=True`.

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
        """Whether the text read so far ends inside a quoted cell."""
        return self._state == "quoted"

    def read(self, piece: bytes) -> None:
        """Read the next piece of the line."""
        index = 0
        while index < len(piece) and self._state != "broken":
            if self._state in ("plain", "quoted"):
                # Nearly all of a long line is the text of cells, which `find` skips much faster than a loop.
                end = piece.find(b"," if self._state == "plain" else b'"', index)
                if end < 0:
                    return
                self._state, index = "start" if self._state == "plain" else "closed", end + 1
                continue
            character, index = piece[index : index + 1], index + 1
            if character == b'"':
                self._state = "quoted"
            elif character == b",":
                self._state = "start"
            elif self._state == "start":
                self._state = "plain"
            elif character not in b"\r\n":
                self._state = "broken"

    def shortest(self) -> str:
        """Return the shortest line that leaves csv.reader in the same state, to give it in place of the long one."""
        if self._state == "broken":
            return '"x' if self._within else '""x'
        return '"' if self.open != self._within else "x"


def array_items(path: Path, size: int = _CHUNK, limit: int = MAX_ROW_BYTES) -> Iterator[str | None]:
    """Yield the text of each item of a JSON array, or None for an item of more than `limit` bytes.

    The file is read `size` characters at a time; memory holds one item and a few such pieces.

    Raises: ValueError or RecursionError if the file is not an array, or is malformed.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from items_of(partial(file.read), size, limit)


def items_of(read: Callable[[int], str], size: int = _CHUNK, limit: int = MAX_ROW_BYTES) -> Iterator[str | None]:
    """Yield the items of a JSON array as `array_items` does; `read` returns so many of the next characters."""
    array = _ArrayReader(read, size, limit)
    if array.next_symbol() != "[":
        raise ValueError("no array")
    symbol = array.next_symbol()
    while symbol != "]":
        array.index -= 1  # the symbol is the first character of the item
        yield array.item()
        if (symbol := array.next_symbol()) == ",":
            symbol = array.next_symbol()
            if symbol == "]":
                raise ValueError("a comma before the end")
        elif symbol != "]":
            raise ValueError("no comma between items")
    if array.next_symbol():
        raise ValueError("something after the array")


class _ArrayReader:
    """Reads a JSON array piece by piece: `text` is the part in memory, `index` the position of the next character."""

    def __init__(self, read: Callable[[int], str], size: int, limit: int) -> None:
        self._read, self._size, self._limit = read, size, limit
        self._scan = json.JSONDecoder().raw_decode
        self.text, self.index = read(size), 0

    def read_more(self) -> bool:
        """Read the next piece and drop the text before `index`; return False at the end of the file."""
        # At least doubles the text: an item is parsed anew after each piece, which takes linear time only in this way.
        piece = self._read(max(self._size, len(self.text) - self.index))
        self.text, self.index = self.text[self.index :] + piece, 0
        return bool(piece)

    def next_symbol(self) -> str:
        """Consume whitespace and the character after it, and return that; empty at the end of the file."""
        while True:
            match = _NO_BLANK.search(self.text, self.index)
            if match:
                self.index = match.end()
                return match.group()
            self.index = len(self.text)
            if not self.read_more():
                return ""

    def item(self) -> str | None:
        """Consume the item at `index` and return its text, or None if it is too long.

        Raises: ValueError if it is malformed.
        """
        end = self._item_end()
        if end is not None and len((text := self.text[self.index : end]).encode()) <= self._limit:
            self.index = end
            return text
        self._skip_item()
        return None

    def _item_end(self) -> int | None:
        """Return the position after the item, or None if it is too long."""
        while True:
            near = len(self.text) - _NEAR_END
            try:
                end = self._scan(self.text, self.index)[1]
                # Without what follows it, a number may go on in the next piece.
                if self.text[end : end + 1] in _AFTER_ITEM:
                    return end
                is_cut = end > near
            except json.JSONDecodeError as error:
                # An unterminated string is reported at its opening quote, however far back that is.
                is_cut = error.pos > near or error.msg.startswith("Unterminated string")
            if not is_cut:
                raise ValueError("an item is broken")
            if len(self.text) - self.index > self._limit:
                return None
            if not self.read_more():
                raise ValueError("an item is cut off")

    def _skip_item(self) -> None:
        """Consume the item, looking at its brackets and quotes only."""
        depth, quoted = 0, False
        while True:
            match = (_QUOTED if quoted else _INSIDE if depth else _OUTSIDE).search(self.text, self.index)
            if match is None:
                # A backslash at the end of a piece stays, as it escapes the first character of the next.
                self.index = max(self.index, len(self.text) - self.text.endswith("\\"))
                if not self.read_more():
                    raise ValueError("an item is cut off")
                continue
            self.index = match.end()
            if match.group() == '"':
                quoted = not quoted
            elif not quoted and match.group() in "[{":
                depth += 1
            elif not quoted and not depth:
                self.index -= 1  # the comma or bracket after the item
                return
            elif not quoted:
                depth -= 1
