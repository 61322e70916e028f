"""Rows in files: json, jsonl, csv, tsv and parquet in, jsonl out, and the conversation form of question and answer.

Rows are dictionaries; each has an id that says where it stands: "train.jsonl:12" is line 12 (from 1), "train.json[3]"
item 3 (from 0) of an array. Text is UTF-8, with or without a byte-order mark, with LF or CRLF line ends.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import orjson

from lotune.data.bounded import MAX_ROW_BYTES, too_long
from lotune.data.disk_list import DiskList
from lotune.data.file_readers import READERS, truncate_text
from lotune.data.folders import check_alike, files_digest, row_files
from lotune.data.tables import HeaderRule, looks_like_header, no_header
from lotune.disk_space import disk_full_as_run_error
from lotune.errors import DataError
from lotune.files import write_atomically, write_json

OnError = Literal["stop", "skip"]
"""What malformed rows do: stop with an error that lists them, or be skipped and counted."""
FIX_ROWS_HINT = "mend these rows (data.on_error=skip counts and skips rows to train or validate on)"
"""What helps where rows cannot be read or used; rows to test on are never skipped."""
SHORTEN_ROWS = (
    "shorten these rows, or raise data.max_row_bytes (data.on_error=skip counts and skips rows to train or validate on)"
)
"""What helps where rows are too long to be read."""


_TOO_LONG = too_long(0).partition("0")[0]


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read: where it stands ("train.jsonl:12"), what is wrong with it and what mends it."""

    where: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class RowFile:
    """The rows of a file or folder as (id, row) pairs, those that could not be read, and the sha256 of its bytes."""

    path: Path
    rows: Sequence[tuple[str, dict[str, Any]]]
    malformed: tuple[Malformed, ...]
    digest: str


MAX_LISTED = 10
"""Malformed rows that a message lists; where there are more, all stand in a file (see `log_all_malformed`)."""


def summarise_malformed(malformed: Sequence[Malformed], most: int = MAX_LISTED) -> str:
    """The first of the malformed rows on one line, those of one reason together, and how many more there are.

    >>> rows = [Malformed("a:1", "no JSON"), Malformed("a:4", "no JSON"), Malformed("a:5", "a list")]
    >>> summarise_malformed(rows, most=2)
    'a:1, a:4 no JSON; and 1 more'
    """
    places: dict[str, list[str]] = {}
    for row in malformed[:most]:
        places.setdefault(truncate_text(row.reason, 240), []).append(row.where)
    more = [f"and {len(malformed) - most} more"] if len(malformed) > most else []
    return "; ".join([*(f"{', '.join(wheres)} {reason}" for reason, wheres in places.items()), *more])


class MalformedRowsError(DataError):
    """Rows of a file cannot be read or used: the message shows the first ten, `malformed` holds all."""

    def __init__(
        self, path: Path, malformed: Sequence[Malformed], total: int, fault: str = "cannot be read", expected: str = ""
    ) -> None:
        self.malformed = tuple(malformed)
        found = f"{len(malformed)} of {total} rows {fault}: {summarise_malformed(malformed)}"
        super().__init__(str(path), found, expected, remedy_for(malformed))


@contextmanager
def log_all_malformed(path: Path) -> Iterator[None]:
    """A block in which malformed rows that are too many for a message are all written to a file, one a line.

    Raises: DataError naming that file.
    """
    try:
        yield
    except MalformedRowsError as error:
        if len(error.malformed) <= MAX_LISTED:
            raise
        write_atomically(path, "".join(f"{row.where} {row.reason}\n" for row in error.malformed))
        raise DataError(error.where, f"{error.found}, all in {path}", error.expected, error.remedy) from None


def read_rows(
    path: Path,
    *,
    on_error: OnError = "stop",
    columns: Mapping[str, str] | None = None,
    headed: HeaderRule = looks_like_header,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> RowFile:
    """The rows of a file, or of all files of a folder, whose formats are told by their suffixes.

    `columns` gives columns the names that the task wants: {wanted: name in the file}. In csv and tsv files a name is
    looked up in the first line, unless all names are numbers: then there is no header line and "1" is the first column.
    Without `columns` the first line of a table is taken for a header where `headed` says so (where it looks like one);
    otherwise, or where a header cell is empty, columns are called by their numbers. Cells of csv and tsv files are
    texts; a tsv file has no quoting, and a .txt file is one. Integers of any size are kept exactly. Blank lines are
    passed over. A row of more than `max_row_bytes` is malformed; it is never held in memory, except for parquet's own
    pages.

    Raises: DataError for a file that is missing, empty, without a single row or of an unknown format, for a folder
    whose files have other columns than one another (see `lotune.data.folders`), HeaderError for a header that names
    more or fewer columns than the rows have;
    MalformedRowsError, with all of them, for rows that cannot be read unless `on_error` is "skip".
    """
    files = row_files(path)
    if columns:
        numbered = all(name.isdecimal() for name in columns.values())
        headed = no_header if numbered else lambda *_: True
    check_alike(files, headed, max_row_bytes)
    malformed: list[Malformed] = []
    there: dict[str, None] = {}

    def readable() -> Iterator[tuple[str, dict[str, Any]]]:
        found_rows = (READERS[file.suffix.lower()](file, headed, max_row_bytes) for file in files)
        for where, found_row in chain.from_iterable(found_rows):
            if columns and not isinstance(found_row, str):
                there.update(dict.fromkeys(found_row))
            row = found_row if isinstance(found_row, str) or not columns else _renamed(found_row, columns)
            if isinstance(row, str):
                malformed.append(Malformed(where, row))
            else:
                yield where, row

    rows = rows_on_disk(readable())
    if columns:
        _check_columns(path, columns, there)
    if malformed and on_error == "stop":
        raise MalformedRowsError(path, malformed, len(rows) + len(malformed))
    if not rows:
        skipped = f" ({len(malformed)} could not be read: {summarise_malformed(malformed)})" if malformed else ""
        remedy = remedy_for(malformed) if malformed else "put rows into it, or name another file"
        raise DataError(str(path), f"holds no rows{skipped}", "one row at least", remedy)
    return RowFile(path, rows, tuple(malformed), files_digest(files))


def rows_on_disk(rows: Iterable[tuple[str, dict[str, Any]]]) -> DiskList[tuple[str, dict[str, Any]]]:
    """Rows with their ids on disk, as they come."""
    return DiskList(rows, _dumped_row, _loaded_row)


def remedy_for(malformed: Sequence[Malformed]) -> str:
    """Return what helps against the faults of these rows: settings that mend them, where there are any."""
    named = list(dict.fromkeys(row.remedy for row in malformed if row.remedy))
    if named:
        return f"{'; '.join(named[:2])}; or {FIX_ROWS_HINT}"
    if any(row.reason.startswith(_TOO_LONG) for row in malformed):
        return SHORTEN_ROWS
    return "save the file as UTF-8" if any("is not UTF-8" in row.reason for row in malformed) else FIX_ROWS_HINT


def _dumped_row(found: tuple[str, dict[str, Any]]) -> bytes:
    try:
        return orjson.dumps(found, default=str, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:  # integers beyond 64 bits; marked, as orjson would read them as floats
        return b" " + json.dumps(found, default=str).encode()


def _loaded_row(content: bytes) -> tuple[str, dict[str, Any]]:
    where, row = (json.loads if content.startswith(b" ") else orjson.loads)(content)
    return where, row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as they are: as one array to a .json file, as one object a line to any other."""
    if path.suffix == ".json":
        write_json(path, list(rows))
    else:
        write_jsonl(path, rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as one JSON object a line and return their number; the name never stands on half a file.

    Rows are written as they come, so memory stays flat however many there are.
    Raises: DataError for a row that has no form in JSON, with its number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    number = 0
    try:
        with disk_full_as_run_error(path), temporary.open("wb", buffering=1 << 20) as file:
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
        found = f"turns from {truncate_text(', '.join(map(repr, speakers))) or 'nobody'}{texts}"
    else:
        found = "no list of turns under 'conversations'"
    name = where or f"row {truncate_text(repr(row.get('id')))}"
    raise DataError(name, found, "one turn from 'human', then one from 'gpt', each with a text as value")


def to_conversation(id: str, prompt: str, answer: str) -> dict[str, Any]:
    """A question and its answer in the conversation form; `from_conversation` gives them back.

    >>> to_conversation("1", "2 + 2?", "4")["conversations"][1]
    {'from': 'gpt', 'value': '4'}
    """
    return {"id": id, "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


def closest_columns_hint(wanted: Iterable[str], there: Iterable[str]) -> str:
    """The clause that names, for each wanted column that is not there, the nearest one; empty where none is near.

    >>> closest_columns_hint(["problem", "solution"], ["Problems", "solution", "id"])
    "; nearest to 'problem' is 'Problems'"
    """
    plain = {name.strip().lower(): name for name in there}
    found = []
    for name in wanted:
        close = [] if name in plain.values() else difflib.get_close_matches(name.lower(), plain, 1)
        found += [f"; nearest to {name!r} is {plain[one]!r}" for one in close]
    return "".join(found)


def _check_columns(path: Path, columns: Mapping[str, str], there: Collection[str]) -> None:
    """Raises: DataError for a wanted column that no row has, with the nearest one."""
    missing = [name for name in columns.values() if name not in there]
    if there and missing:
        found = f"has no column {', '.join(map(repr, missing))}{closest_columns_hint(missing, there)}"
        raise DataError(str(path), found, f"one of {', '.join(there)}", "correct the names in task.columns")


def _renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | str:
    missing = [name for name in columns.values() if name not in row]
    if missing:
        near = closest_columns_hint(missing, row)
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
