"""What tasks on one's own rows have in common: how rows are written and labels read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lotune.errors import DataError, SettingsError
from lotune.tasks.task import Generating, Task


class NoGeneratorError(SettingsError):
    """A task whose rows are one's own was to generate some; `where` names what takes a file of them."""

    def __init__(self, task: str, where: str = "data.train") -> None:
        self.task = task
        super().__init__(where, f"the task {task} has no generator", "a file of rows")


def generating(task: Task) -> Generating:
    """Return the task as one that generates rows. Raises: NoGeneratorError where it has no generator."""
    if isinstance(task, Generating):
        return task
    raise NoGeneratorError(task.name)


@contextmanager
def blame_setting(where: str) -> Iterator[None]:
    """A block that may generate rows for something else than data.train, which is what an error then names."""
    try:
        yield
    except NoGeneratorError as error:
        raise NoGeneratorError(error.task, where) from None


LABELS_REMEDY = "name every label of the file in task.labels, with its word, such as {neg: bad, pos: good}"
"""What helps where a label of a file is none of those that the task has."""


def named_columns(*fields: str) -> str:
    """Return the remedy where a file has these fields of a task's rows under other names.

    >>> named_columns("sentence", "label")
    "name the file's columns: task.columns={sentence: COLUMN, label: COLUMN}"
    """
    return f"name the file's columns: task.columns={{{', '.join(f'{field}: COLUMN' for field in fields)}}}"


def label_word(id: str, label: str, labels: Mapping[str, str]) -> str:
    """The word that stands for a label of a file, which may be the word itself; empty where there is no label.

    Raises: DataError for a label that is none of `labels`.

    >>> label_word("row 1", "1", {"0": "no", "1": "yes"})
    'yes'
    """
    if label and label not in labels and label not in labels.values():
        expected = f"one of {', '.join(labels)}"
        raise DataError(id, f"its label is {label!r}", expected, LABELS_REMEDY)
    return labels.get(label, label)


def text_or_empty(value: object) -> str:
    """A field as text; empty where it is missing or null, and nowhere else: 0 and false are values.

    >>> text_or_empty(0), text_or_empty(None)
    ('0', '')
    """
    return "" if value is None else str(value)
