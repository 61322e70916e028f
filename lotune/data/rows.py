"""Rows of files: read json, jsonl, csv, tsv and parquet, write json and jsonl, and convert to and from conversations.

Rows are dictionaries. The id of a row is its position: "train.jsonl:12" is line 12 (from 1), "train.json[3]" is item 3
(from 0) of an array. Text is UTF-8, with or without a byte-order mark, with LF or CRLF line ends.
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
"""Handling of malformed rows: stop with an error that lists them, or skip and count them."""
FIX_ROWS_HINT = "fix these rows (data.on_error=skip skips and counts malformed training and validation rows)"
"""Remedy for rows that cannot be read or used; test rows are never skipped."""
SHORTEN_ROWS = (
    "shorten these rows, or raise data.max_row_bytes (data.on_error=skip counts and skips rows to train or validate on)"
)
"""Remedy for rows that are too long to be read."""
_TOO_LONG = too_long(0).partition("0")[0]


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read: its position ("train.jsonl:12"), the reason, and the remedy if there is one."""

    where: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class RowFile:
    """The rows of a file or folder as (id, row) pairs, its malformed rows, and the sha256 of its bytes."""

    path: Path
    rows: Sequence[tuple[str, dict[str, Any]]]
    malformed: tuple[Malformed, ...]
    digest: str


MAX_LISTED = 10
"""Number of malformed rows in a message; if there are more, `log_all_malformed` writes all of them to a file."""


def summarise_malformed(malformed: Sequence[Malformed], max_listed: int = MAX_LISTED) -> str:
    """Return the first malformed rows on one line, grouped by reason, with the number of further ones.

    >>> rows = [Malformed("a:1", "no JSON"), Malformed("a:4", "no JSON"), Malformed("a:5", "a list")]
    >>> summarise_malformed(rows, max_listed=2)
    'a:1, a:4 no JSON; and 1 more'
    """
    ids_by_reason: dict[str, list[str]] = {}
    for row in malformed[:max_listed]:
        ids_by_reason.setdefault(truncate_text(row.reason, 240), []).append(row.where)
    more = [f"and {len(malformed) - max_listed} more"] if len(malformed) > max_listed else []
    return "; ".join([*(f"{', '.join(ids)} {reason}" for reason, ids in ids_by_reason.items()), *more])


class MalformedRowsError(DataError):
    """Rows of a file cannot be read or used; the message shows the first ten, `malformed` has all."""

    def __init__(
        self, path: Path, malformed: Sequence[Malformed], total: int, fault: str = "cannot be read", expected: str = ""
    ) -> None:
        self.malformed = tuple(malformed)
        found = f"{len(malformed)} of {total} rows {fault}: {summarise_malformed(malformed)}"
        super().__init__(str(path), found, expected, remedy_for(malformed))


@contextmanager
def log_all_malformed(path: Path) -> Iterator[None]:
    """Write the malformed rows of an error in this context to `path`, one per line, if a message cannot list them all.

    Raises: DataError that names the file.
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
    """Read the rows of a file, or of all files of a folder; the suffix of a file determines its format.

    `columns` renames columns: {name for the task: name in the file}. If all names in the file are numbers, a csv or tsv
    file has no header, and "1" is its first column; otherwise its first line is the header. Without `columns`, `headed`
    decides whether the first line is a header. Columns without a name are called by their numbers.

    Cells of csv and tsv files are texts; a tsv file has no quoting. Integers of any size are exact. Blank lines are
    skipped. A row of more than `max_row_bytes` is malformed, and only parquet ever holds it in memory.

    Raises: DataError for a file that is missing, empty, without rows or of an unknown format, and for a folder whose
    files have different columns; HeaderError for a header with more or fewer columns than the rows;
    MalformedRowsError for rows that cannot be read, unless `on_error` is "skip".
    """
    files = row_files(path)
    if columns:
        numbered = all(name.isdecimal() for name in columns.values())
        headed = no_header if numbered else lambda *_: True
    check_alike(files, headed, max_row_bytes)
    malformed: list[Malformed] = []
    present: dict[str, None] = {}  # a dict keeps the order of the columns for the message

    def readable() -> Iterator[tuple[str, dict[str, Any]]]:
        readers = (READERS[file.suffix.lower()](file, headed, max_row_bytes) for file in files)
        for where, read_row in chain.from_iterable(readers):
            if columns and not isinstance(read_row, str):
                present.update(dict.fromkeys(read_row))
            row = read_row if isinstance(read_row, str) or not columns else _renamed(read_row, columns)
            if isinstance(row, str):
                malformed.append(Malformed(where, row))
            else:
                yield where, row

    # Only now are `malformed` and `present` complete; a column that no row has is one error, not one of each row.
    rows = rows_on_disk(readable())
    if columns:
        _check_columns(path, columns, present)
    if malformed and on_error == "stop":
        raise MalformedRowsError(path, malformed, len(rows) + len(malformed))
    if not rows:
        skipped = f" ({len(malformed)} could not be read: {summarise_malformed(malformed)})" if malformed else ""
        remedy = remedy_for(malformed) if malformed else "add rows, or choose another file"
        raise DataError(str(path), f"holds no rows{skipped}", "one row at least", remedy)
    return RowFile(path, rows, tuple(malformed), files_digest(files))


def rows_on_disk(rows: Iterable[tuple[str, dict[str, Any]]]) -> DiskList[tuple[str, dict[str, Any]]]:
    """Write rows with their ids to a DiskList as the iterable yields them."""
    return DiskList(rows, _dump_row, _load_row)


def remedy_for(malformed: Sequence[Malformed]) -> str:
    """Return the remedy for these rows: their own remedies if they have any, else one for their reasons."""
    named = list(dict.fromkeys(row.remedy for row in malformed if row.remedy))
    if named:
        return f"{'; '.join(named[:2])}; or {FIX_ROWS_HINT}"
    if any(row.reason.startswith(_TOO_LONG) for row in malformed):
        return SHORTEN_ROWS
    return "save the file as UTF-8" if any("is not UTF-8" in row.reason for row in malformed) else FIX_ROWS_HINT


def _dump_row(row: tuple[str, dict[str, Any]]) -> bytes:
    try:
        # Dates of parquet become texts as `str` writes them, not in orjson's own format.
        return orjson.dumps(row, default=str, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:  # integers beyond 64 bits; the space marks them, as orjson would read them as floats
        return b" " + json.dumps(row, default=str).encode()


def _load_row(content: bytes) -> tuple[str, dict[str, Any]]:
    where, row = (json.loads if content.startswith(b" ") else orjson.loads)(content)
    return where, row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows: as one array to a .json file, as one object per line to any other."""
    if path.suffix == ".json":
        write_json(path, list(rows))
    else:
        write_jsonl(path, rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as one JSON object per line and return their number.

    The file is written under a temporary name and renamed, one row at a time.

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
            # Before the rename: after a power failure, the name could otherwise point to an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return number


def from_conversation(row: Mapping[str, Any], where: str = "") -> tuple[str, str]:
    """Return prompt and answer of a row in ShareGPT's form: one turn from "human", then one from "gpt".

    Raises: DataError for other turns; it names the row by `where`, or else by its id.

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
    """Return a question and its answer as a row in ShareGPT's form, the inverse of `from_conversation`.

    >>> to_conversation("1", "2 + 2?", "4")["conversations"][1]
    {'from': 'gpt', 'value': '4'}
    """
    return {"id": id, "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


def closest_columns_hint(names: Iterable[str], columns: Iterable[str]) -> str:
    """Return a clause with the closest of the columns for each missing name; empty if none is close.

    >>> closest_columns_hint(["problem", "solution"], ["Problems", "solution", "id"])
    "; nearest to 'problem' is 'Problems'"
    """
    by_lower_case = {column.strip().lower(): column for column in columns}
    clauses = []
    for name in names:
        is_present = name in by_lower_case.values()
        matches = [] if is_present else difflib.get_close_matches(name.lower(), by_lower_case, 1)
        clauses += [f"; nearest to {name!r} is {by_lower_case[match]!r}" for match in matches]
    return "".join(clauses)


def _check_columns(path: Path, columns: Mapping[str, str], present: Collection[str]) -> None:
    """Raise DataError for a column that no row has, with the closest one."""
    missing = [name for name in columns.values() if name not in present]
    if present and missing:
        found = f"has no column {', '.join(map(repr, missing))}{closest_columns_hint(missing, present)}"
        raise DataError(str(path), found, f"one of {', '.join(present)}", "correct the names in task.columns")


def _renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | str:
    missing = [name for name in columns.values() if name not in row]
    if missing:
        near = closest_columns_hint(missing, row)
        return f"no column {', '.join(map(repr, missing))} among {', '.join(map(repr, row))}{near}"
    unrenamed = {name: value for name, value in row.items() if name not in columns.values()}
    # Renamed columns come last, so that they win over another column that already has the name.
    return {**unrenamed, **{task_name: row[name] for task_name, name in columns.items()}}


def _line(row: Mapping[str, Any], where: str) -> bytes:
    plain = row if isinstance(row, dict) else dict(row)
    try:
        return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as reason:
        try:  # integers beyond 64 bits
            return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError):
            raise DataError(where, f"has no form in JSON: {reason}", "texts, numbers, lists, objects") from None
