"""Read rows from json, jsonl, csv, tsv and parquet files, with a reason for each row that cannot be read."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from lotune.data.bounded import BYTE_ORDER_MARK, Quotes, array_items, bounded_lines, too_long
from lotune.data.tables import HeaderRule, Records, table_rows
from lotune.errors import DataError

MAX_WHOLE_FILE_BYTES = 1 << 26
"""Largest json file, in bytes, that is read whole to locate a fault in it."""
MAX_NESTING = 250
"""Levels of nested objects and arrays allowed in a row; orjson, which stores rows on disk, writes little more."""
TOO_DEEP = f"nested deeper than {MAX_NESTING} levels"
# orjson reads integers beyond 64 bits as floats. 2⁶³ has 19 digits, so such rows are parsed again with json.
_LONG_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19,}|^\s*-?\d{19,}")
_ReadRows = Iterator[tuple[str, dict[str, Any] | str]]
"""Pairs of a row's id and the row, or the reason why the row cannot be read."""


def read_json_document(path: Path) -> Any:
    """Return the value of a json file of any layout, such as SQuAD's.

    Raises: DataError if the file is missing, empty, not UTF-8 (with line and byte offset) or not JSON (with line and
    column).
    """
    check_file(path)
    try:
        content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    try:
        return _parse_json(content)
    except _NotJsonError as error:
        line, reason = error.args
        raise DataError(f"{path}:{line}", reason, "JSON in UTF-8") from None


def begins_with_object(path: Path) -> bool:
    """Return whether a json file begins with an object; only its first 4 KiB are read."""
    with path.open("rb") as file:
        return file.read(1 << 12).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{")


class _NotJsonError(Exception):
    """A line is not JSON; the arguments are its number (from 1) and the reason."""


def check_name(path: Path) -> None:
    """Raise DataError if the name of a file is not UTF-8: ids of rows contain it, and are written to JSON."""
    if not is_text(str(path)):
        printable_name = os.fsencode(path).decode(errors="backslashreplace")
        raise DataError(f"'{printable_name}'", "its name is not UTF-8", "UTF-8", "rename it")


def check_file(path: Path) -> None:
    """Raise DataError if a file is missing, a folder, unreadable, empty or UTF-16, or if its name is not UTF-8."""
    check_name(path)
    try:
        if path.is_dir():
            raise DataError(str(path), "is a folder", "a file", "name a file of rows in it")
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise DataError(
            str(path), "does not exist", remedy="check the path; it is relative to the current folder"
        ) from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    if not start.removeprefix(BYTE_ORDER_MARK):
        raise DataError(str(path), "is empty", "rows", "add rows, or choose another file")
    # Windows' programs save "Unicode" as UTF-16; without this check every line of it would be reported as malformed.
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(str(path), "is UTF-16", "UTF-8", "save the file as UTF-8")


def _read_jsonl(path: Path, headed: HeaderRule, limit: int) -> _ReadRows:
    for number, offset, line, size in bounded_lines(path, limit):
        if size > limit:
            yield f"{path.name}:{number}", too_long(limit)
        if not line.strip():
            continue
        try:
            yield f"{path.name}:{number}", _as_row(_parse_json(line, offset))
        except _NotJsonError as error:
            yield f"{path.name}:{number}", error.args[1]


def _read_json(path: Path, headed: HeaderRule, limit: int) -> _ReadRows:
    # Items are parsed one by one to bound the memory. A file on which that fails is parsed whole if it is small enough,
    # since only then does the parser know line and column of the fault.
    count = 0
    try:
        for item in array_items(path, limit=limit):
            yield f"{path.name}[{count}]", too_long(limit) if item is None else _as_row(_parse_json(item.encode()))
            count += 1
        return
    except (_NotJsonError, ValueError, RecursionError) as error:
        if path.stat().st_size > MAX_WHOLE_FILE_BYTES:
            reason = TOO_DEEP if isinstance(error, RecursionError) else f"not JSON: {error.args[-1]}"
            where, remedy = f"{path.name}[{count}]", "save it as jsonl, and the fault is named with its line"
            raise DataError(where, reason, "an array of objects, in UTF-8", remedy) from None
        value = read_json_document(path)  # raises DataError with line and column of the fault
    if not isinstance(value, list):
        squad = isinstance(value, dict) and isinstance(value.get("data"), list)
        remedy = "a file in SQuAD's layout is read by the reading task" if squad else "put the rows into one array"
        raise DataError(str(path), f"holds {_json_type(value)}", "an array of objects", remedy)
    # Valid JSON after all: an item was too deep for the incremental reader. Earlier items have been yielded.
    for index, item in enumerate(value[count:], start=count):
        row = _as_row(item)
        yield f"{path.name}[{index}]", too_long(limit) if len(_text_of(row)) > limit else row


def _read_tsv(path: Path, headed: HeaderRule, limit: int) -> _ReadRows:
    def records() -> Records:
        for number, offset, line, size in bounded_lines(path, limit):
            text = _decoded(line, offset)
            if size > limit:
                yield number, too_long(limit)
            elif isinstance(text, _NotJsonError):
                yield number, text.args[1]
            elif text:
                yield number, text.split("\t")

    return table_rows(path, records(), headed)


def _read_txt(path: Path, headed: HeaderRule, limit: int) -> _ReadRows:
    """Read a text file with tabs as tsv. Raises: DataError for any other text."""
    if not any("\t" in line.decode(errors="replace") for _, _, line, _ in islice(bounded_lines(path, limit), 10)):
        remedy = "rename it after its format, or learn it as an article (pretrain.corpus)"
        raise DataError(str(path), "is a text without tabs", "a table with tabs between its cells", remedy)
    return _read_tsv(path, headed, limit)


def _read_csv(path: Path, headed: HeaderRule, limit: int) -> _ReadRows:
    def records() -> Records:
        lines = _CsvLines(path, limit)
        reader = csv.reader(lines, strict=True)
        while True:
            number = reader.line_num + 1
            lines.begin()
            record: list[str] | str
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                record = f"not csv: {error}"
            if lines.fault or record:
                yield number, lines.fault or record

    # csv's own limit of a cell (131,072 characters) holds for the whole process; ours is bounded_lines.
    default = csv.field_size_limit(1 << 30)
    try:
        yield from table_rows(path, records(), headed)
    finally:
        csv.field_size_limit(default)


def _read_parquet(path: Path, headed: HeaderRule, limit: int) -> _ReadRows:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        remedy = "pip install pyarrow, or convert the file to jsonl"
        raise DataError(str(path), "parquet cannot be read here", "the package pyarrow", remedy) from None
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in _bounded_rows(batch, limit))
        yield from ((f"{path.name}[{i}]", row) for i, row in enumerate(rows))
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"is not parquet: {truncate_text(str(error))}") from None


def _bounded_rows(batch: Any, limit: int) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a pyarrow batch, or the reason why one is too long.

    A large batch is halved until a row that may be too long is alone, so that Python objects are made of few rows.
    """
    if batch.nbytes <= limit:
        yield from batch.to_pylist()
    elif len(batch) > 1:
        half = len(batch) // 2
        yield from _bounded_rows(batch.slice(0, half), limit)
        yield from _bounded_rows(batch.slice(half), limit)
    else:  # dictionary-encoded columns count with their whole dictionary, so the row itself is measured
        yield from (row if len(_text_of(row)) <= limit else too_long(limit) for row in batch.to_pylist())


READERS: dict[str, Callable[[Path, HeaderRule, int], _ReadRows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}


class _CsvLines:
    """Iterator of lines for csv.reader, which bounds the size of a record; `fault` is the reason against the record.

    A record has several lines if a quoted cell contains line ends. In place of a line that is too long, csv.reader gets
    a short one that leaves its quoting in the same state, so that the next record begins where it should.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._lines, self._limit = bounded_lines(path, limit, lambda piece: self._quotes.read(piece)), limit
        self.begin()

    def begin(self) -> None:
        """Begin a new record."""
        self._size, self._count, self.fault = 0, 0, ""

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        self._quotes = Quotes(within=self._count > 0)
        _, offset, line, size = next(self._lines)
        self._size += size
        self._count += 1
        if self._size > self._limit:
            self.fault = too_long(self._limit) + (": perhaps a quote is never closed" if self._count > 1 else "")
            self._quotes.read(line)
            return self._quotes.shortest() + "\n"
        text = _decoded(line, offset)
        if isinstance(text, _NotJsonError):
            self.fault = self.fault or text.args[1]
            return "\n"
        return text + "\n"


def _decoded(line: bytes, offset: int) -> str | _NotJsonError:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        start = offset + error.start
        return _NotJsonError(
            1 + line[: error.start].count(b"\n"), f"byte {start} (0x{line[error.start]:02x}) is not UTF-8"
        )


def _parse_json(content: bytes, offset: int = 0) -> Any:
    """Return the value of JSON bytes that begin at a byte offset of their file. Raises: _NotJsonError."""
    try:
        value = orjson.loads(content)
        return json.loads(content) if _LONG_INTEGER.search(content) else value
    except orjson.JSONDecodeError as error:
        text = _decoded(content, offset)
        if isinstance(text, _NotJsonError):
            raise text from None
        reason = f"not JSON at column {error.colno}: {error.msg.partition(': line')[0]}"
        raise _NotJsonError(error.lineno, reason) from None
    except ValueError as error:
        raise _NotJsonError(1, f"not JSON: {error}") from None
    except RecursionError:
        raise _NotJsonError(1, TOO_DEEP) from None


def _text_of(value: Any) -> bytes:
    """Return a value as JSON, to measure its length."""
    try:
        return orjson.dumps(value, default=str)
    except TypeError:  # integers beyond 64 bits
        return json.dumps(value, default=str).encode()


def _as_row(value: Any) -> dict[str, Any] | str:
    if not isinstance(value, dict):
        return f"{_json_type(value)}, not an object"
    return TOO_DEEP if _is_too_deep(value) else value


def _is_too_deep(row: dict[str, Any]) -> bool:
    # Level by level, not recursively: the recursion itself could fail on such a row.
    level: list[Any] = [row]
    for _ in range(MAX_NESTING):
        members = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in members for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def is_text(text: str) -> bool:
    r"""Return whether a text can be written as UTF-8; Python decodes other bytes of file names as lone surrogates.

    >>> is_text("naïve 算"), is_text("\udcff")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def truncate_text(text: str, max_length: int = 120) -> str:
    """Return a text on one line, truncated to `max_length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"
