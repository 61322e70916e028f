"""Checks of a task's rows before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lotune.data.examples import Example
from lotune.data.rows import closest_columns_hint
from lotune.errors import DataError
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task


def require_references(task: Task, settings: TaskSettings, examples: Sequence[Example], data: Path | None) -> None:
    """Nothing, where a row at least has a key that can be judged. Raises: DataError, with the nearest column."""
    if any(task.judge(example, "").correct is not None for example in examples):
        return
    found = f"none of {len(examples)} rows has a key that can be judged"
    if data is None:
        raise DataError(task.name, found)
    rows = [row for _, row in task.read(data, on_error="skip").rows]
    row, near = rows[0], ""
    there = f" (the first has {', '.join(row)})"
    if (key := settings.key_column) is not None and not any(key in one for one in rows):
        found, near = f"no row has the column {key!r} of task.answer_column", closest_columns_hint([key], row)
    raise DataError(str(data), found + there + near, "rows with their keys", "`lotune generate` answers without keys")
