"""Folders of files that are one data set, such as one csv file a subject: which files are read, and that they fit."""

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
"""Names of files that stand beside data and hold none."""


def row_files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or the files of a folder in the order of their names.

    Hidden files, .md files and those called README or LICENSE are passed over.
    Raises: DataError for an unknown format, and for a folder that holds no files or holds folders.
    """
    if not path.is_dir():
        return [_checked(path)]
    found = sorted(one for one in path.iterdir() if not _is_beside(one))
    files = [one for one in found if one.is_file()]
    folders = [one for one in found if one.is_dir()]
    if folders and any(next(one.iterdir(), None) for one in folders):
        names = ", ".join(one.name for one in folders[:5])
        raise DataError(str(path), f"is a folder that holds folders ({names})", "files of rows", "name one of these")
    if not files:
        raise DataError(str(path), "is a folder without a file of rows", "files of rows", "name another one")
    return [_checked(one) for one in files]


def check_alike(files: Sequence[Path], headed: HeaderRule, max_row_bytes: int = MAX_ROW_BYTES) -> None:
    """Nothing, where all files of a folder have the same columns.

    Raises: DataError naming the files whose columns are not those of the others.
    """
    if len(files) == 1:
        return
    columns = {file: _columns(file, headed, max_row_bytes) for file in files}
    usual = _usual(columns)
    odd = {file: found for file, found in columns.items() if found and not _fits(file, found, usual)}
    if odd:
        first, *others = odd
        more = f"; nor do {', '.join(file.name for file in others[:5])}" if others else ""
        found = f"does not fit the other files of {first.parent}: it has {_named(odd[first])}{more}"
        raise DataError(str(first), found, _named(usual), "move it to another folder, or name one file")


def files_digest(files: Sequence[Path]) -> str:
    """The sha256 of one file's bytes, or of the names and bytes of several, in hexadecimal."""
    if len(files) == 1:
        return file_digest(files[0])
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(file_digest(file)))
    return found.hexdigest()


def _checked(file: Path) -> Path:
    """Raises: DataError where it cannot be read or has another suffix than those of READERS."""
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
    """Names of the columns of a file's first row that can be read; none where there is no such row."""
    rows = READERS[file.suffix.lower()](file, headed, max_row_bytes)
    return next((tuple(row) for _, row in rows if not isinstance(row, str)), ())


def _usual(columns: Mapping[Path, tuple[str, ...]]) -> tuple[str, ...]:
    """The columns that most files have."""
    found = Counter(names for names in columns.values() if names)
    return found.most_common(1)[0][0] if found else ()


def _fits(file: Path, names: tuple[str, ...], usual: tuple[str, ...]) -> bool:
    """Whether a file belongs to those with the usual columns: a table has all of them, rows of json have one."""
    return names == usual if _is_table(file) else not set(names).isdisjoint(usual)


def _named(names: tuple[str, ...]) -> str:
    if all(name.isdecimal() for name in names):
        return f"{counted(len(names), 'column')} without a header"
    return f"the columns {', '.join(names[:12])}"
