"""Rows in files: json, jsonl, csv, tsv and parquet in, jsonl out, and the conversation form of question and answer.

Rows are dictionaries; each has an id that says where it stands: "train.jsonl:12" is line 12 (from 1), "train.json[3]"
item 3 (from 0) of an array. Text is UTF-8, with or without a byte-order mark, with LF or CRLF line ends.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import orjson

from lotune.disk import writing
from lotune.errors import DataError

OnError = Literal["stop", "skip"]
"""What malformed rows do: stop with an error that lists them, or be skipped and counted."""


MEND_ROWS = "mend these rows (data.on_error=skip counts and skips rows to train or validate on)"
"""What helps where rows cannot be read or used; rows to test on are never skipped."""


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read: where it stands ("train.jsonl:12") and what is wrong with it."""

    where: str
    reason: str


@dataclass(frozen=True)
class RowFile:
    """The rows of a file as (id, row) pairs, those that could not be read, and the sha256 of its bytes."""

    path: Path
    rows: list[tuple[str, dict[str, Any]]]
    malformed: tuple[Malformed, ...]
    digest: str


def listed(malformed: Sequence[Malformed], most: int = 10) -> str:
    """The first of the malformed rows on one line, those of one reason together, and how many more there are.

    >>> listed([Malformed("a:1", "no JSON"), Malformed("a:4", "no JSON"), Malformed("a:5", "a list")], most=2)
    'a:1, a:4 no JSON; and 1 more'
    """
    places: dict[str, list[str]] = {}
    for row in malformed[:most]:
        places.setdefault(_short(row.reason, 240), []).append(row.where)
    more = [f"and {len(malformed) - most} more"] if len(malformed) > most else []
    return "; ".join([*(f"{', '.join(wheres)} {reason}" for reason, wheres in places.items()), *more])


class MalformedRowsError(DataError):
    """Rows of a file cannot be read: the message shows the first ten, `malformed` holds all."""

    def __init__(self, path: Path, malformed: Sequence[Malformed], total: int) -> None:
        self.malformed = tuple(malformed)
        found = f"{len(malformed)} of {total} rows cannot be read: {listed(malformed)}"
        foreign = any("is not UTF-8" in row.reason for row in malformed)
        super().__init__(str(path), found, remedy="save the file as UTF-8" if foreign else MEND_ROWS)


def read_rows(path: Path, *, on_error: OnError = "stop", columns: Mapping[str, str] | None = None) -> RowFile:
    """The rows of a file, its format told by its suffix.

    `columns` gives columns the names that the task wants: {wanted: name in the file}. In csv and tsv files a name is
    looked up in the first line, unless all names are numbers: then there is no header line and "1" is the first column.
    Without `columns` the first line of a table is taken for a header where it looks like one (see `looks_like_header`);
    otherwise, or where a header cell is empty, columns are called by their numbers. Cells of csv and tsv files are
    texts; a tsv file has no quoting. Integers of any size are kept exactly. Blank lines are passed over.

    Raises: DataError for a file that is missing, empty, without a single row or of an unknown format;
    MalformedRowsError, with all of them, for rows that cannot be read unless `on_error` is "skip".
    """
    _check(path)
    reader = _FORMATS.get(path.suffix.lower())
    if reader is None:
        found = f"has the suffix {path.suffix!r}" if path.suffix else "has no suffix"
        raise DataError(str(path), found, f"one of {', '.join(_FORMATS)}", "rename or convert the file")
    rows: list[tuple[str, dict[str, Any]]] = []
    malformed: list[Malformed] = []
    there: dict[str, None] = {}
    for where, found_row in reader(path, columns):
        if columns and not isinstance(found_row, str):
            there.update(dict.fromkeys(found_row))
        row = found_row if isinstance(found_row, str) or not columns else _renamed(found_row, columns)
        if isinstance(row, str):
            malformed.append(Malformed(where, row))
        else:
            rows.append((where, row))
    if columns:
        _check_columns(path, columns, there)
    if malformed and on_error == "stop":
        raise MalformedRowsError(path, malformed, len(rows) + len(malformed))
    if not rows:
        skipped = f" ({len(malformed)} could not be read)" if malformed else ""
        raise DataError(str(path), f"holds no rows{skipped}", "one row at least")
    return RowFile(path, rows, tuple(malformed), file_digest(path))


def read_json_document(path: Path) -> Any:
    """The one value that a json file holds, of any layout (SQuAD's, for one).

    Raises: DataError where the file is missing, empty, not UTF-8 (with line and byte offset) or not JSON (with line and
    column).
    """
    _check(path)
    try:
        content = path.read_bytes().removeprefix(_MARK)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    try:
        return _parse(content)
    except _NotJsonError as error:
        line, reason = error.args
        raise DataError(f"{path}:{line}", reason, "JSON in UTF-8") from None


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as one JSON object a line and return their number; the name never stands on half a file.

    Rows are written as they come, so memory stays flat however many there are.
    Raises: DataError for a row that has no form in JSON, with its number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    number = 0
    try:
        with writing(path), temporary.open("wb", buffering=1 << 20) as file:
            for number, row in enumerate(rows, 1):
                file.write(_line(row, f"row {number} for {path}"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return number


def from_conversation(row: Mapping[str, Any], where: str = "") -> tuple[str, str]:
    """Prompt and answer of a row in the conversation form: one turn from "human", then one from "gpt".

    Raises: DataError naming the row (`where`, else its id) where it has other turns.

    >>> from_conversation(to_conversation("1", "2 + 2?", "4"))
    ('2 + 2?', '4')
    """
    turns = row.get("conversations")
    if isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns):
        speakers = [turn.get("from") for turn in turns]
        values = [turn.get("value") for turn in turns]
        if speakers == ["human", "gpt"] and all(isinstance(value, str) for value in values):
            return values[0], values[1]
        texts = "" if all(isinstance(value, str) for value in values) else ", not all with a text as value"
        found = f"turns from {_short(', '.join(map(repr, speakers))) or 'nobody'}{texts}"
    else:
        found = "no list of turns under 'conversations'"
    name = where or f"row {_short(repr(row.get('id')))}"
    raise DataError(name, found, "one turn from 'human', then one from 'gpt', each with a text as value")


def to_conversation(id: str, prompt: str, answer: str) -> dict[str, Any]:
    """A question and its answer in the conversation form; `from_conversation` gives them back.

    >>> to_conversation("1", "2 + 2?", "4")["conversations"][1]
    {'from': 'gpt', 'value': '4'}
    """
    return {"id": id, "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


def looks_like_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether the first line of a table names its columns.

    It does where its cells (the very first may be empty) are distinct, of three words and 40 characters at most, do not
    begin with a digit or end like a sentence, and do not stand again in their own column.

    >>> looks_like_header(["id", "question"], [["7", "Why?"]])
    True
    >>> looks_like_header(["gj04", "1", "", "They left."], [["gj04", "0", "", "Left they."]])
    False
    """
    named = first[1:] if first and not first[0].strip() else first
    if not named or len(set(named)) < len(named):
        return False
    if not all(1 <= len(cell.split()) <= 3 and len(cell) <= 40 and not _NUMBER.match(cell) for cell in named):
        return False
    if any(cell.rstrip()[-1] in ".?!。？！" for cell in named):
        return False
    return not any(cell == other for row in others for cell, other in zip(first, row, strict=False) if cell.strip())


def nearest_names(wanted: Iterable[str], there: Iterable[str]) -> str:
    """The clause that names, for each wanted column that is not there, the nearest one; empty where none is near.

    >>> nearest_names(["problem", "solution"], ["Problems", "solution", "id"])
    "; nearest to 'problem' is 'Problems'"
    """
    plain = {name.strip().lower(): name for name in there}
    found = []
    for name in wanted:
        close = [] if name in plain.values() else difflib.get_close_matches(name.lower(), plain, 1)
        found += [f"; nearest to {name!r} is {plain[one]!r}" for one in close]
    return "".join(found)


_MARK = b"\xef\xbb\xbf"
_NUMBER = re.compile(r"\s*[-+.]?\d")
_LONG_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19,}|^\s*-?\d{19,}")
_Found = Iterator[tuple[str, dict[str, Any] | str]]
"""Pairs of a row's id and the row, or the reason why it cannot be read."""


class _NotJsonError(Exception):
    """Arguments: line (from 1) and reason."""


def _check(path: Path) -> None:
    """Raises: DataError where there is no file with something in it, or it is UTF-16."""
    try:
        if path.is_dir():
            raise DataError(str(path), "is a folder", "a file")
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise DataError(
            str(path), "there is no such file", remedy="check the path; it counts from where you are"
        ) from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    if not start.removeprefix(_MARK):
        raise DataError(str(path), "is empty", "rows")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(str(path), "is UTF-16", "UTF-8", "save the file as UTF-8")


def _read_jsonl(path: Path, columns: Mapping[str, str] | None) -> _Found:
    for number, offset, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield f"{path.name}:{number}", _as_row(_parse(line, offset))
        except _NotJsonError as error:
            yield f"{path.name}:{number}", error.args[1]


def _read_json(path: Path, columns: Mapping[str, str] | None) -> _Found:
    value = read_json_document(path)
    if not isinstance(value, list):
        squad = isinstance(value, dict) and isinstance(value.get("data"), list)
        remedy = "a file in SQuAD's layout is read by the reading task" if squad else "put the rows into one array"
        raise DataError(str(path), f"holds {_kind(value)}", "an array of objects", remedy)
    for index, item in enumerate(value):
        yield f"{path.name}[{index}]", _as_row(item)


def _read_tsv(path: Path, columns: Mapping[str, str] | None) -> _Found:
    def records() -> _Records:
        for number, offset, line in _lines(path):
            text = _decoded(line, offset)
            if isinstance(text, _NotJsonError):
                yield number, text.args[1]
            elif text:
                yield number, text.split("\t")

    return _table(path, records(), columns)


def _read_csv(path: Path, columns: Mapping[str, str] | None) -> _Found:
    def records() -> _Records:
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
        yield from _table(path, records(), columns)
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, columns: Mapping[str, str] | None) -> _Found:
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
        raise DataError(str(path), f"is not parquet: {_short(str(error))}") from None


_FORMATS: dict[str, Callable[[Path, Mapping[str, str] | None], _Found]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}

_Records = Iterator[tuple[int, list[str] | str]]
"""Pairs of a line number and its cells, or the reason why they cannot be read."""


def _table(path: Path, records: _Records, columns: Mapping[str, str] | None) -> _Found:
    """Rows of a table; the header is taken off its first lines."""
    start = list(islice(records, 1000))
    cells = [record for _, record in start if not isinstance(record, str)]
    if not cells or start[0][1] is not cells[0]:
        headed = False
    elif columns:
        headed = not all(name.isdecimal() for name in columns.values())
    else:
        headed = looks_like_header(cells[0], cells[1:])
    names = cells[0] if headed else []
    if len(set(names)) < len(names):
        raise DataError(f"{path}:{start[0][0]}", "two columns have the same name", "distinct names in the header")
    width = len(cells[0]) if cells else 0
    header = [name.strip() or str(number) for number, name in enumerate(names or [""] * width, 1)]
    for number, record in chain(start, records):
        if names and record is names:
            continue
        if not isinstance(record, str) and len(record) != width:
            record = f"{_counted(len(record), 'cell')} where line {start[0][0]} has {width}"
        row = record if isinstance(record, str) else dict(zip(header, record, strict=True))
        yield f"{path.name}:{number}", row


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


def _parse(content: bytes, offset: int = 0) -> Any:
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


def _as_row(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"{_kind(value)}, not an object"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _check_columns(path: Path, columns: Mapping[str, str], there: Collection[str]) -> None:
    """Raises: DataError for a wanted column that no row has, with the nearest one."""
    missing = [name for name in columns.values() if name not in there]
    if there and missing:
        found = f"has no column {', '.join(map(repr, missing))}{nearest_names(missing, there)}"
        raise DataError(str(path), found, f"one of {', '.join(there)}", "correct the names in task.columns")


def _renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | str:
    missing = [name for name in columns.values() if name not in row]
    if missing:
        near = nearest_names(missing, row)
        return f"no column {', '.join(map(repr, missing))} among {', '.join(map(repr, row))}{near}"
    rest = {name: value for name, value in row.items() if name not in columns.values()}
    return {**rest, **{wanted: row[name] for wanted, name in columns.items()}}


def _line(row: Mapping[str, Any], where: str) -> bytes:
    plain = row if isinstance(row, dict) else dict(row)
    try:
        return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as reason:
        try:  # integers beyond 64 bits
            return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError):
            raise DataError(where, f"has no form in JSON: {reason}", "texts, numbers, lists, objects") from None


def _short(text: str, most: int = 120) -> str:
    """A text on one line of `most` characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
