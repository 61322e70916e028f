"""Record files: JSON lines that grow by one record at a time and can be resumed by id and fingerprint.

A killed process can leave a torn last line. Readers skip it and the next append removes it, so a file always holds the
complete records that were written. A record of a resumable file has an `id`, a `prompt` if several prompts share the
id, and the `fingerprint` of all that it depends on, unless the file belongs to a run that records this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from lotune.disk_space import disk_full_as_run_error
from lotune.errors import RunError
from lotune.files import to_json, write_atomically


def append_record(path: Path, record: Any) -> None:
    """Append one record as one line; create missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = to_json(record) + b"\n"
    with disk_full_as_run_error(path, len(line)), path.open("a+b") as file:
        _drop_torn_line(file)
        file.write(line)


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write a whole file of records, atomically."""
    write_atomically(path, encode_records(records))


def encode_records(records: Iterable[Any]) -> bytes:
    r"""Return records as lines.

    >>> encode_records([{"id": "1"}, {"id": "2"}])
    b'{"id":"1"}\n{"id":"2"}\n'
    """
    return b"".join(to_json(record) + b"\n" for record in records)


def record_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    r"""Yield the number and the bytes of each complete line that is not blank; skip a torn last line.

    >>> list(record_lines(b'{"id":"1"}\n\n{"id":"2"}\n{"id'))
    [(1, b'{"id":"1"}'), (3, b'{"id":"2"}')]
    """
    # A record and its line break are written together, so what follows the last break is torn.
    lines = enumerate(data.split(b"\n")[:-1], start=1)
    return ((number, line) for number, line in lines if line.strip())


def stored_records(paths: Iterable[Path]) -> dict[Hashable, Mapping[str, Any]]:
    """Return the records of all existing files by id and prompt; the last duplicate counts.

    Lines without a record are skipped.
    """
    records = (_record(line) for path in paths if path.exists() for _, line in record_lines(path.read_bytes()))
    return {(record.get("id"), record.get("prompt")): record for record in records if record}


def filter_records(path: Path, keep: Callable[[Any], bool]) -> None:
    """Rewrite a file with only the records for which `keep` is true; lines that are not JSON are removed."""
    remaining = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(orjson.JSONDecodeError):
            if keep(orjson.loads(line)):
                remaining.append(line + b"\n")
    write_atomically(path, b"".join(remaining))


def require_fingerprint(path: Path, fingerprint: str) -> None:
    """Accept a file that does not exist, and one whose records all have this fingerprint, up to a torn last line.

    Raises: RunError for another file, which stays as it is.
    """
    if not path.exists():
        return
    data, record_start = path.read_bytes(), b'{"id":'
    torn = data.rpartition(b"\n")[2]
    same = all(_record(line).get("fingerprint") == fingerprint for _, line in record_lines(data))
    # The next append removes a torn line, so it must be the start of a record and not a text of the user.
    if not same or torn[: len(record_start)] != record_start[: len(torn)]:
        fault = "holds answers of another model or other settings, or does not record which"
        expected = "answers of this model and these settings, or a new file"
        raise RunError(str(path), fault, expected, "choose another file with --out")


def _record(line: bytes) -> dict[str, Any]:
    """Return the object of a line, empty for a line that holds none."""
    with suppress(orjson.JSONDecodeError):
        if isinstance(record := orjson.loads(line), dict):
            return record
    return {}


def _drop_torn_line(file: Any) -> None:
    # From the end, in blocks: files are long, and this runs before every record.
    size = file.seek(0, os.SEEK_END)
    end = size
    while end:
        start = max(0, end - 65_536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        file.truncate(end)
