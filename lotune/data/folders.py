"""Folders that hold one data set in several files, such as one csv file per subject."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.file_readers import READERS, check_file
from lotune.data.tables import HeaderRule, counted
from lotune.errors import DataError
from lotune.files import file_digest

TABLES = (".csv", ".tsv", ".txt")
_BESIDE = ("readme", "license", "licence", "copying")
"""Beginnings of the names of files that accompany data and have no rows."""


def row_files(path: Path) -> list[Path]:
    """Return the files of a path: the file itself, or the files of a folder sorted by name.

    Hidden files, .md files and files called README or LICENSE are ignored.

    Raises: DataError for an unknown format, an empty folder, or a folder that holds folders with files.
    """
    if not path.is_dir():
        return [_check_format(path)]
    # Sorted, as the order of the rows, and with it every sample, must not depend on the file system.
    entries = sorted(entry for entry in path.iterdir() if not _is_beside(entry))
    files = [entry for entry in entries if entry.is_file()]
    folders = [entry for entry in entries if entry.is_dir()]
    # Such folders are often the splits of a data set (MMLU: dev, val, test), and must not be mixed.
    if folders and any(next(folder.iterdir(), None) for folder in folders):
        names = ", ".join(folder.name for folder in folders[:5])
        raise DataError(str(path), f"is a folder that holds folders ({names})", "files of rows", "name one of these")
    if not files:
        raise DataError(str(path), "is a folder without a file of rows", "files of rows", "choose another folder")
    return [_check_format(file) for file in files]


def check_alike(files: Sequence[Path], headed: HeaderRule, max_row_bytes: int = MAX_ROW_BYTES) -> None:
    """Check that all files of a folder have the same columns.

    Raises: DataError that names the files with other columns.
    """
    if len(files) == 1:
        return
    columns = {file: _columns(file, headed, max_row_bytes) for file in files}
    usual = _usual(columns)
    odd = {file: names for file, names in columns.items() if names and not _fits(file, names, usual)}
    if odd:
        first, *further = odd
        more = f"; nor do {', '.join(file.name for file in further[:5])}" if further else ""
        found = f"does not fit the other files of {first.parent}: it has {_describe(odd[first])}{more}"
        raise DataError(str(first), found, _describe(usual), "move it to another folder, or name one file")


def files_digest(files: Sequence[Path]) -> str:
    """Return the sha256 of one file's bytes, or of the names and bytes of several, in hexadecimal."""
    if len(files) == 1:
        return file_digest(files[0])
    digest = hashlib.sha256()
    for file in files:
        # Names may have bytes that are not UTF-8; surrogateescape gives those bytes back.
        digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(file_digest(file)))
    return digest.hexdigest()


def _check_format(file: Path) -> Path:
    """Return the file if it can be read and has a suffix of READERS. Raises: DataError."""
    check_file(file)
    if file.suffix.lower() not in READERS:
        found = f"has the suffix {file.suffix!r}" if file.suffix else "has no suffix"
        raise DataError(str(file), found, f"one of {', '.join(READERS)}", "rename or convert the file")
    return file


def _is_beside(path: Path) -> bool:
    hidden = path.name.startswith((".", "__"))
    return hidden or path.suffix.lower() == ".md" or path.stem.lower().startswith(_BESIDE)


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in TABLES


def _columns(file: Path, headed: HeaderRule, max_row_bytes: int) -> tuple[str, ...]:
    """Return the columns of the first readable row of a file; empty if there is none."""
    rows = READERS[file.suffix.lower()](file, headed, max_row_bytes)
    return next((tuple(row) for _, row in rows if not isinstance(row, str)), ())


def _usual(columns: Mapping[Path, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the columns that most files have."""
    counts = Counter(names for names in columns.values() if names)
    return counts.most_common(1)[0][0] if counts else ()


def _fits(file: Path, names: tuple[str, ...], usual: tuple[str, ...]) -> bool:
    """Return whether a file has the usual columns: all of them in a table, at least one in JSON rows."""
    # Keys of JSON rows may be optional, and only the first row is read here.
    return names == usual if _is_table(file) else not set(names).isdisjoint(usual)


def _describe(names: tuple[str, ...]) -> str:
    if all(name.isdecimal() for name in names):
        return f"{counted(len(names), 'column')} without a header"
    return f"the columns {', '.join(names[:12])}"
