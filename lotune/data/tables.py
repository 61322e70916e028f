"""Tables: whether the first line names the columns, and rows made of records of cells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lotune.errors import DataError

HeaderRule = Callable[[Sequence[str], Sequence[Sequence[str]]], bool]
"""Whether the first line of a table names its columns, told from its cells and those of the lines that follow."""
Records = Iterator[tuple[int, list[str] | str]]
"""Pairs of a line number and its cells, or the reason why they cannot be read."""
_NUMBER = re.compile(r"\s*[-+.]?\d")
_SAMPLE = 1000
"""Records from which the header and the width of a table are told."""
_ALIKE = 0.9
"""Share of the records that must have one width before the first line is blamed for another one."""


class HeaderError(DataError):
    """The first line of a table has more or fewer cells than its rows.

    `header` holds its cells and `records` those of the first rows below.
    """

    def __init__(self, where: str, header: Sequence[str], records: Sequence[Sequence[str]], headed: bool) -> None:
        self.header, self.records, self.headed = tuple(header), tuple(map(tuple, records)), headed
        width, cells = len(header), len(records[0])
        names = f"its header names {counted(width, 'column')} ({', '.join(header)})"
        found = names if headed else f"its first line has {counted(width, 'cell')}"
        remedy = "mend the first line, or say by number in task.columns which column holds what"
        super().__init__(
            where, f"{found}, the rows below have {counted(cells, 'cell')}", "a name for each column", remedy
        )


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


def no_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """The rule of tables whose columns are given by number: the first line is a row.

    A header that has more or fewer cells than the rows is passed over all the same.
    """
    return False


def table_rows(path: Path, records: Records, headed: HeaderRule) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Rows of a table under their ids, or the reasons why they cannot be read; the header is taken off.

    Raises: DataError where semicolons separate the cells or two columns have one name, HeaderError where the first line
    has another number of cells than the rows.
    """
    start = list(islice(records, _SAMPLE))
    cells = [record for _, record in start if not isinstance(record, str)]
    if len(cells) > 1 and len(cells[0]) == 1 and all(";" in "".join(record) for record in cells):
        found, remedy = "';' separates its cells", "save it with commas, or with tabs as tsv"
        raise DataError(str(path), found, "',' in csv, a tab in tsv", remedy)
    first = cells[0] if cells and start[0][1] is cells[0] else []
    width = _usual_width(cells)
    odd = bool(first) and len(first) != width
    if odd and headed is not no_header:
        below = [record for record in cells[1:] if len(record) == width]
        raise HeaderError(f"{path}:{start[0][0]}", first, below, looks_like_header(_trimmed(first), below))
    names = first if first and not odd and headed(first, cells[1:]) else []
    if len(set(names)) < len(names):
        raise DataError(f"{path}:{start[0][0]}", "two columns have the same name", "distinct names in the header")
    passed_over = first if names or (odd and looks_like_header(_trimmed(first), cells[1:])) else None
    header = [name.strip() or str(number) for number, name in enumerate(names or [""] * width, 1)]
    model = f"most lines have {width}" if odd else f"line {start[0][0] if start else 1} has {width}"
    for number, record in chain(start, records):
        if passed_over is not None and record is passed_over:
            continue
        if not isinstance(record, str) and len(record) != width:
            record = f"{counted(len(record), 'cell')} where {model}"
        row = record if isinstance(record, str) else dict(zip(header, record, strict=True))
        yield f"{path.name}:{number}", row


def _usual_width(cells: Sequence[Sequence[str]]) -> int:
    """Cells of a row: those of the first record, unless nearly all others have another number of them in common."""
    if not cells:
        return 0
    widths = Counter(len(record) for record in cells[1:])
    if not widths or len(cells[0]) in widths:
        return len(cells[0])
    width, number = widths.most_common(1)[0]
    return width if number >= _ALIKE * (len(cells) - 1) else len(cells[0])


def _trimmed(cells: Sequence[str]) -> Sequence[str]:
    """Cells without the empty ones at the end, which separators at the end of a line leave."""
    number = len(cells)
    while number and not cells[number - 1].strip():
        number -= 1
    return cells[:number]


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "cell"), counted(2, "cell")
    ('1 cell', '2 cells')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
