"""Helpers of tasks that read a user's own rows: labels, missing fields and remedies of errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lotune.errors import DataError, SettingsError
from lotune.tasks.task import Generating, Task

CHINESE = re.compile(r"[\u4e00-\u9fff]")
"""Matches a Chinese character."""


class NoGeneratorError(SettingsError):
    """Rows were requested from a task without a generator; `where` names the setting that takes a file of rows."""

    def __init__(self, task: str, where: str = "data.train") -> None:
        self.task = task
        super().__init__(where, f"the task {task} has no generator", "a file of rows")


def generating(task: Task) -> Generating:
    """Return the task as one that generates rows. Raises: NoGeneratorError if it has no generator."""
    if isinstance(task, Generating):
        return task
    raise NoGeneratorError(task.name)


@contextmanager
def blame_setting(where: str) -> Iterator[None]:
    """Name this setting, instead of data.train, in a NoGeneratorError that the block raises."""
    try:
        yield
    except NoGeneratorError as error:
        # `generating` does not know for which setting the rows are; the caller does.
        raise NoGeneratorError(error.task, where) from None


LABELS_REMEDY = "name every label of the file in task.labels, with its word, such as {neg: bad, pos: good}"
"""Remedy for a label of a file that the task does not have."""
POSITIVE = (
    "1", "true", "yes", "positive", "pos", "entailment", "duplicate", "spam", "good", "正面", "积极", "好评", "是",
)  # fmt: skip
"""Labels that are the positive one of two."""


def named_columns(*fields: str) -> str:
    """Return the remedy for a file whose columns have other names than these fields.

    >>> named_columns("sentence", "label")
    "name the file's columns: task.columns={sentence: COLUMN, label: COLUMN}"
    """
    return f"name the file's columns: task.columns={{{', '.join(f'{field}: COLUMN' for field in fields)}}}"


def label_word(id: str, label: str, labels: Mapping[str, str]) -> str:
    """Return the word for a label of a file, or an empty string if there is no label.

    Raises: DataError if the label is neither a key nor a word of `labels`.

    >>> label_word("row 1", "1", {"0": "no", "1": "yes"})
    'yes'
    """
    if label and label not in labels and label not in labels.values():
        expected = f"one of {', '.join(labels)}" if labels else "labels in task.labels"
        raise DataError(id, f"its label is {label!r}", expected, LABELS_REMEDY)
    return labels.get(label, label)


def text_or_empty(value: object) -> str:
    """Return a field as text: empty if it is missing or null. 0 and false are values.

    >>> text_or_empty(0), text_or_empty(None)
    ('0', '')
    """
    # Readers give null for an empty cell of parquet and json, numbers for typed columns.
    return "" if value is None else str(value)


def label_order(label: str) -> tuple[bool, float, str]:
    """Return a sort key that puts the positive label last, as `task.labels` has it; numbers by their value.

    >>> sorted(["yes", "no", "maybe"], key=label_order), sorted(["10", "9"], key=label_order)
    (['maybe', 'no', 'yes'], ['9', '10'])
    """
    if re.fullmatch(r"[-+]?\d+(\.\d+)?", label):
        return False, float(label), label
    return label.lower() in POSITIVE, 0.0, label
