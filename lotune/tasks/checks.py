"""Checks of a task's rows before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lotune.data.examples import Example
from lotune.data.rows import closest_columns_hint
from lotune.errors import DataError, SettingsError
from lotune.tasks.scorers import better_scorer, median_words
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task


def require_fitting_scorer(task: Task, examples: Sequence[Example]) -> None:
    """Raise SettingsError, with the better scorer, if the references are too long for the task's scorer."""
    references = [example.references[0] for example in examples if example.references]
    if (scorer := better_scorer(task.scorer, references)) is not None:
        fault = (
            f"{task.scorer} on answers of {median_words(references):.0f} words (median) cannot move: no model hits one"
        )
        raise SettingsError("task.scorer", fault, "a measure of long answers", f"task.scorer={scorer}")


def require_references(task: Task, settings: TaskSettings, examples: Sequence[Example], data: Path | None) -> None:
    """Raise DataError, with the nearest column, unless at least one row has a reference that can be scored."""
    # Any answer will do: `correct` is None exactly if the reference cannot be used.
    if any(task.judge(example, "").correct is not None for example in examples):
        return
    message = f"none of {len(examples)} rows has a reference that can be scored"
    if data is None:
        raise DataError(task.name, message)
    rows = [row for _, row in task.read(data, on_error="skip").rows]
    first_row, near = rows[0], ""
    columns = f" (the first has {', '.join(first_row)})"
    if (column := settings.key_column) is not None and not any(column in row for row in rows):
        message = f"no row has the column {column!r} of task.answer_column"
        near = closest_columns_hint([column], first_row)
    remedy = "use `lotune generate`, which needs no reference answers"
    raise DataError(str(data), message + columns + near, "rows with reference answers", remedy)
