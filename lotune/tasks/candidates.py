"""A candidate: settings of a task that could read a file, with the decisions behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lotune.errors import DataError
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Row


@dataclass(frozen=True)
class Decision:
    """A decision of `lotune init` in words, and the option or setting that changes it."""

    text: str
    change: str

    def __str__(self) -> str:
        return f"{self.text} ({self.change})"


@dataclass(frozen=True)
class Candidate:
    """Settings of a task for a file, the decisions in them, and other readings of the same file."""

    settings: TaskSettings
    decisions: tuple[Decision, ...] = ()
    others: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What the user decides: the name of the task, and columns by role."""

    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def is_bare(row: Row) -> bool:
    """Return whether the columns of a table have numbers for names."""
    return list(row) == [str(number) for number in range(1, len(row) + 1)]


def fraction(rows: Sequence[Row], condition: Callable[[Row], object]) -> float:
    """Return the fraction of rows that meet a condition; one that raises a DataError does not meet it."""

    def holds(row: Row) -> bool:
        try:
            return bool(condition(row))
        except DataError:
            return False

    return sum(map(holds, rows)) / len(rows)


def mapped(columns: Mapping[str, str]) -> str:
    """Return a column map in words.

    >>> mapped({"sentence": "review", "label": "stars"})
    "sentence is 'review', label is 'stars'"
    """
    return ", ".join(f"{role} is {name!r}" for role, name in columns.items())
