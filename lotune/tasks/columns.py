"""What the columns of a file of rows hold: identifiers, labels, numbers or texts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from lotune.tasks.task import Row
from lotune.tasks.user_rows import text_or_empty

Kind = Literal["text", "label", "number", "identifier", "constant", "empty", "metadata", "nested"]
LEFT_OUT: dict[Kind, str] = {
    "identifier": "an identifier",
    "constant": "the same in all rows",
    "empty": "empty",
    "metadata": "about the row",
}
"""Kinds of columns that say nothing about an answer, in words."""
MAX_LABELS = 50
"""Largest number of labels of a task."""
MAX_NUMERIC_LABELS = 10
"""Largest number of different numbers in a column that are taken for labels; more are values."""
ROWS_PER_LABEL = 3
"""Labels recur this often on average; a column of other short texts does not."""
SAMPLE = 1_000
"""Number of rows that are inspected."""
_ID_NAMES = re.compile(r"(.*[_ ])?(id|ids|uuid|guid|idx|index|row|no|nr|key|hash)|unnamed: \d+|编号|序号|行号", re.I)
_METADATA_NAMES = re.compile(
    r"(source|author|user|user_?name|url|link|lang|language|split|license|date|time|timestamp|(created|updated)(_at)?)"
    r"|日期|时间|来源|作者|链接|语言",
    re.I,
)
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}|[0-9a-f]{16,64}", re.I)
_NUMBER = re.compile(r"[-+]?[$€£¥￥]?\s?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?([eE][-+]?\d+)?\s?%?")


@dataclass(frozen=True)
class Column:
    """A column of the inspected rows: its name, what it holds, and its cells as texts without blanks at their ends."""

    name: str
    kind: Kind
    cells: tuple[str, ...]

    @cached_property
    def values(self) -> tuple[str, ...]:
        """Return the different cells that are not empty, sorted."""
        return tuple(sorted(set(self.cells) - {""}))

    @property
    def length(self) -> float:
        """Mean length of the cells in characters."""
        return sum(map(len, self.cells)) / max(1, len(self.cells))

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(map(is_number, self.values))


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of rows in the order of the file."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(name, [row.get(name) for row in rows]) for name in names]


def usable(columns: Iterable[Column]) -> list[Column]:
    """Return the columns that can hold a text or an answer."""
    return [column for column in columns if column.kind in ("text", "label", "number")]


def is_number(text: str) -> bool:
    """Return whether a text is a number and nothing else.

    >>> [is_number(text) for text in ("12", "-1,200.50", "$3", "1e-3", "3 km", ".")]
    [True, True, True, True, False, False]
    """
    return any(map(str.isdigit, text)) and _NUMBER.fullmatch(text) is not None


def _column(name: str, values: Sequence[object]) -> Column:
    cells = tuple(text_or_empty(value).strip() for value in values)
    if any(isinstance(value, list | dict) for value in values):
        return Column(name, "nested", cells)
    return Column(name, _kind(name.strip(), cells), cells)


def _kind(name: str, cells: Sequence[str]) -> Kind:
    present = [cell for cell in cells if cell]
    distinct = set(present)
    if not present:
        return "empty"
    if _is_identifier(name, present, distinct):
        return "identifier"
    if len(distinct) == 1 and len(cells) > 1:
        return "constant"
    if _METADATA_NAMES.fullmatch(name) and sum(map(len, present)) < 40 * len(present):
        return "metadata"
    if is_label(cells):
        return "label"
    return "number" if all(map(is_number, distinct)) else "text"


def _is_identifier(name: str, present: Sequence[str], distinct: Collection[str]) -> bool:
    """Return whether cells number or name their rows."""
    if len(present) < 2 or len(distinct) < 0.9 * len(present):
        return _ID_NAMES.fullmatch(name) is not None and len(present) > 1 and len(distinct) > MAX_LABELS
    if _ID_NAMES.fullmatch(name) or all(map(_UUID.fullmatch, distinct)):
        return True
    if len(distinct) < len(present) or not all(re.fullmatch(r"\d{1,18}", cell) for cell in present):
        return False
    # Different integers may also be answers; those that rise from row to row number the rows.
    numbers = list(map(int, present))
    return len(numbers) > 2 and all(first < second for first, second in pairwise(numbers))


def is_label(cells: Sequence[str]) -> bool:
    """Return whether a column holds few short values that recur.

    >>> is_label(["pos", "neg", "pos", "neg"]), is_label(["a", "b", "c", "d"])
    (True, False)
    """
    present = [cell.strip() for cell in cells if cell.strip()]
    distinct = set(present)
    most = MAX_NUMERIC_LABELS if all(map(is_number, distinct)) else MAX_LABELS
    short = all(len(value) <= 40 and len(value.split()) <= 5 for value in distinct)
    few = 2 <= len(distinct) <= min(most, max(2, len(present) // ROWS_PER_LABEL))
    return short and few and len(distinct) < len(present) and len(present) >= 0.8 * len(cells)
