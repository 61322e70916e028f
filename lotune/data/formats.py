"""Files of rows: json, jsonl, csv, tsv and parquet, read as (id, row) pairs or the reason why a row cannot be read."""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from lotune.data.tables import HeaderRule, Records, table
from lotune.errors import DataError

_MARK = b"\xef\xbb\xbf"
_AFTER_ITEM = tuple(" \t\r\n,]")
MOST_LEVELS = 250
"""Objects and arrays within one another that a row may have: about what orjson writes."""
TOO_DEEP = f"nested deeper than {MOST_LEVELS} levels"
_NO_BLANK = re.compile(r"[^ \t\r\n]")
_LONG_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19,}|^\s*-?\d{19,}")
_Found = Iterator[tuple[str, dict[str, Any] | str]]
"""Pairs of a row's id and the row, or the reason why it cannot be read."""


def read_json_document(path: Path) -> Any:
    """The one value that a json file holds, of any layout (SQuAD's, for one).

    Raises: DataError where the file is missing, empty, not UTF-8 (with line and byte offset) or not JSON (with line and
    column).
    """
    check_file(path)
    try:
        content = path.read_bytes().removeprefix(_MARK)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    try:
        return _parse_json(content)
    except _NotJsonError as error:
        line, reason = error.args
        raise DataError(f"{path}:{line}", reason, "JSON in UTF-8") from None


class _NotJsonError(Exception):
    """Arguments: line (from 1) and reason."""


def check_file(path: Path) -> None:
    """Raises: DataError where there is no file with something in it, or it is UTF-16."""
    try:
        if path.is_dir():
            raise DataError(str(path), "is a folder", "a file", "name a file of rows in it")
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise DataError(
            str(path), "there is no such file", remedy="check the path; it counts from where you are"
        ) from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    if not start.removeprefix(_MARK):
        raise DataError(str(path), "is empty", "rows", "put rows into it, or name another file")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(str(path), "is UTF-16", "UTF-8", "save the file as UTF-8")


def _read_jsonl(path: Path, headed: HeaderRule) -> _Found:
    for number, offset, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield f"{path.name}:{number}", _as_row(_parse_json(line, offset))
        except _NotJsonError as error:
            yield f"{path.name}:{number}", error.args[1]


def _read_json(path: Path, headed: HeaderRule) -> _Found:
    count = 0
    try:
        for item in _array_items(path):
            yield f"{path.name}[{count}]", _as_row(_parse_json(item.encode()))
            count += 1
        return
    except (_NotJsonError, ValueError, RecursionError):
        value = read_json_document(path)  # says where the fault is
    if not isinstance(value, list):
        squad = isinstance(value, dict) and isinstance(value.get("data"), list)
        remedy = "a file in SQuAD's layout is read by the reading task" if squad else "put the rows into one array"
        raise DataError(str(path), f"holds {_kind(value)}", "an array of objects", remedy)
    for index, item in enumerate(value[count:], start=count):  # nested deeper than items are found one by one
        yield f"{path.name}[{index}]", _as_row(item)


def _array_items(path: Path, size: int = 1 << 20) -> Iterator[str]:
    """The text of each item of an array, a few of `size` characters held at a time.

    Raises: ValueError or RecursionError where the file is no array, or broken.
    """
    scan = json.JSONDecoder().raw_decode
    with path.open(encoding="utf-8-sig", newline="") as file:
        text, place = file.read(size), 0

        def more() -> bool:
            nonlocal text, place
            found = file.read(max(size, len(text) - place))
            text, place = text[place:] + found, 0
            return bool(found)

        def mark() -> str:
            """The next character that is no blank, empty at the end; it is gone past."""
            nonlocal place
            while True:
                found = _NO_BLANK.search(text, place)
                if found:
                    place = found.end()
                    return found.group()
                place = len(text)
                if not more():
                    return ""

        if mark() != "[":
            raise ValueError("no array")
        following = mark()
        while following != "]":
            place -= 1
            while True:
                try:
                    end = scan(text, place)[1]
                    if text[end : end + 1] in _AFTER_ITEM:
                        break
                except json.JSONDecodeError:
                    pass
                if not more():
                    raise ValueError("an item is cut off")
            yield text[place:end]
            place = end
            if (following := mark()) == ",":
                following = mark()
                if following == "]":
                    raise ValueError("a comma before the end")
            elif following != "]":
                raise ValueError("no comma between items")
        if mark():
            raise ValueError("something after the array")


def _read_tsv(path: Path, headed: HeaderRule) -> _Found:
    def records() -> Records:
        for number, offset, line in _lines(path):
            text = _decoded(line, offset)
            if isinstance(text, _NotJsonError):
                yield number, text.args[1]
            elif text:
                yield number, text.split("\t")

    return table(path, records(), headed)


def _read_txt(path: Path, headed: HeaderRule) -> _Found:
    """A text file with tabs is tsv. Raises: DataError for another one."""
    if not any("\t" in line.decode(errors="replace") for _, _, line in islice(_lines(path), 10)):
        found, remedy = (
            "is a text without tabs",
            "rename it after its format, or learn it as an article (pretrain.text)",
        )
        raise DataError(str(path), found, "a table with tabs between its cells", remedy)
    return _read_tsv(path, headed)


def _read_csv(path: Path, headed: HeaderRule) -> _Found:
    def records() -> Records:
        broken: dict[int, str] = {}
        reader = csv.reader(_csv_lines(path, broken), strict=True)
        while True:
            number = reader.line_num + 1
            record: list[str] | str
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                record = f"not csv: {error}"
            reasons = [broken[line] for line in range(number, reader.line_num + 1) if line in broken]
            if reasons or record:
                yield number, reasons[0] if reasons else record

    limit = csv.field_size_limit(1 << 30)
    try:
        yield from table(path, records(), headed)
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, headed: HeaderRule) -> _Found:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        remedy = "pip install pyarrow, or convert the file to jsonl"
        raise DataError(str(path), "parquet cannot be read here", "the package pyarrow", remedy) from None
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        yield from (
            (f"{path.name}[{i}]", row) for i, row in enumerate(row for batch in batches for row in batch.to_pylist())
        )
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"is not parquet: {short(str(error))}") from None


READERS: dict[str, Callable[[Path, HeaderRule], _Found]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of each line, without line end and byte-order mark."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            marked = number == 1 and line.startswith(_MARK)
            yield number, offset + 3 * marked, line[3 * marked :].removesuffix(b"\n").removesuffix(b"\r")
            offset += len(line)


def _csv_lines(path: Path, broken: dict[int, str]) -> Iterator[str]:
    """Lines with a plain line end (a quoted cell may hold one); those that are not UTF-8 are noted in `broken`."""
    for number, offset, line in _lines(path):
        text = _decoded(line, offset)
        if isinstance(text, _NotJsonError):
            broken[number] = text.args[1]
        yield ("" if isinstance(text, _NotJsonError) else text) + "\n"


def _decoded(line: bytes, offset: int) -> str | _NotJsonError:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        start = offset + error.start
        return _NotJsonError(
            1 + line[: error.start].count(b"\n"), f"byte {start} (0x{line[error.start]:02x}) is not UTF-8"
        )


def _parse_json(content: bytes, offset: int = 0) -> Any:
    """The value of JSON bytes that begin at a byte offset of their file. Raises: _NotJsonError."""
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


def _as_row(value: Any) -> dict[str, Any] | str:
    if not isinstance(value, dict):
        return f"{_kind(value)}, not an object"
    return TOO_DEEP if _is_too_deep(value) else value


def _is_too_deep(row: dict[str, Any]) -> bool:
    level: list[Any] = [row]
    for _ in range(MOST_LEVELS):
        held = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in held for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def is_text(text: str) -> bool:
    r"""Whether a text can be written as UTF-8; bytes that were none come from outside as lone surrogates.

    >>> is_text("naïve 算"), is_text("\udcff")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(text: str, most: int = 120) -> str:
    """A text on one line of `most` characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
