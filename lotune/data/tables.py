"""Tables: recognise a header, and turn records of cells into rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lotune.errors import DataError

HeaderRule = Callable[[Sequence[str], Sequence[Sequence[str]]], bool]
"""Decides from the cells of the first line and of the lines below whether the first line is a header."""
Records = Iterator[tuple[int, list[str] | str]]
"""Pairs of a line number and its cells, or the reason why the line cannot be read."""
_NUMBER = re.compile(r"\s*[-+.]?\d")
_SAMPLE = 1000
"""Number of records from which the header and the number of columns are inferred."""
# Not 1: a few broken lines must not make a broken header look right, and all other rows malformed.
_MIN_AGREEMENT = 0.9
"""Fraction of the records that must have the same number of cells to call a first line with another number faulty."""


class HeaderError(DataError):
    """The first line of a table has more or fewer cells than its rows.

    `header` has its cells, `records` those of the first rows below, and `headed` tells whether it looks like a header.
    """

    def __init__(self, where: str, header: Sequence[str], records: Sequence[Sequence[str]], headed: bool) -> None:
        self.header, self.records, self.headed = tuple(header), tuple(map(tuple, records)), headed
        columns, cells = len(header), len(records[0])
        names = f"its header names {counted(columns, 'column')} ({', '.join(header)})"
        found = names if headed else f"its first line has {counted(columns, 'cell')}"
        remedy = "correct the first line, or map the columns by number in task.columns"
        super().__init__(
            where, f"{found}, the rows below have {counted(cells, 'cell')}", "a name for each column", remedy
        )


def looks_like_header(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line of a table looks like a header.

    It does if its cells (the very first may be empty) are distinct, have at most three words and 40 characters, do not
    begin with a digit, do not end like a sentence, and do not occur again in their own column.

    >>> looks_like_header(["id", "question"], [["7", "Why?"]])
    True
    >>> looks_like_header(["gj04", "1", "", "They left."], [["gj04", "0", "", "Left they."]])
    False
    """
    # pandas writes its index as a first column without a name.
    named = first[1:] if first and not first[0].strip() else first
    if not named or len(set(named)) < len(named):
        return False
    if not all(1 <= len(cell.split()) <= 3 and len(cell) <= 40 and not _NUMBER.match(cell) for cell in named):
        return False
    if any(cell.rstrip()[-1] in ".?!。？！" for cell in named):
        return False
    # Columns of labels ("A", "B", "entailment") pass all other tests, but repeat their values.
    return not any(name == cell for row in below for name, cell in zip(first, row, strict=False) if name.strip())


def plain_name(name: str) -> str:
    r"""Return the name of a column without blanks and byte-order marks around it.

    >>> plain_name("\ufeff review ")
    'review'
    """
    return name.strip().strip("\ufeff").strip()


def no_header(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Return False: the rule for tables whose columns are given by number, where the first line is a row.

    `table_rows` skips a header with another number of cells than the rows all the same.
    """
    return False


def table_rows(path: Path, records: Records, headed: HeaderRule) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield the rows of a table without its header as (id, row), or (id, reason) for a row that cannot be read.

    Raises: DataError if semicolons separate the cells or two columns have the same name; HeaderError if the first line
    has another number of cells than the rows.
    """
    start = list(islice(records, _SAMPLE))
    cells = [record for _, record in start if not isinstance(record, str)]
    if len(cells) > 1 and len(cells[0]) == 1 and all(";" in "".join(record) for record in cells):
        found, remedy = "';' separates its cells", "save it with commas, or with tabs as tsv"
        raise DataError(str(path), found, "',' in csv, a tab in tsv", remedy)
    first = cells[0] if cells and start[0][1] is cells[0] else []
    columns = _usual_columns(cells)
    odd = bool(first) and len(first) != columns
    if odd and headed is not no_header:
        below = [record for record in cells[1:] if len(record) == columns]
        raise HeaderError(f"{path}:{start[0][0]}", first, below, looks_like_header(_trimmed(first), below))
    names = [plain_name(name) for name in first] if first and not odd and headed(first, cells[1:]) else []
    if len(set(names)) < len(names):
        raise DataError(f"{path}:{start[0][0]}", "two columns have the same name", "distinct names in the header")
    skipped = first if names or (odd and looks_like_header(_trimmed(first), cells[1:])) else None
    header = [name or str(number) for number, name in enumerate(names or [""] * columns, 1)]
    model = f"most lines have {columns}" if odd else f"line {start[0][0] if start else 1} has {columns}"
    for number, record in chain(start, records):
        if skipped is not None and record is skipped:
            continue
        if not isinstance(record, str) and len(record) != columns:
            record = f"{counted(len(record), 'cell')} where {model}"
        row = record if isinstance(record, str) else dict(zip(header, record, strict=True))
        yield f"{path.name}:{number}", row


def _usual_columns(cells: Sequence[Sequence[str]]) -> int:
    """Return the number of cells of the first record, or of nearly all others if they agree on another number."""
    if not cells:
        return 0
    counts = Counter(len(record) for record in cells[1:])
    if not counts or len(cells[0]) in counts:
        return len(cells[0])
    columns, records = counts.most_common(1)[0]
    return columns if records >= _MIN_AGREEMENT * (len(cells) - 1) else len(cells[0])


def _trimmed(cells: Sequence[str]) -> Sequence[str]:
    """Return the cells without empty ones at the end, which a separator at the end of a line leaves."""
    number = len(cells)
    while number and not cells[number - 1].strip():
        number -= 1
    return cells[:number]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural.

    >>> counted(1, "cell"), counted(2, "cell")
    ('1 cell', '2 cells')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
