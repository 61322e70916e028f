"""The fields that a question of a task has, so that one can be asked without a file of rows."""

from __future__ import annotations

from collections.abc import Mapping

from lotune.tasks.custom import CustomSettings, prompt_columns
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Row

FIELDS: Mapping[str, tuple[str, ...]] = {
    "arithmetic": ("problem",),
    "reading": ("context", "question"),
    "choice": ("question", "A", "B", "C", "D"),
    "sentences": ("sentence",),
    "instructions": ("instruction", "input"),
}
"""Names of the fields by task; a task of pairs of sentences has the fields PAIR."""
PAIR = ("first", "second")


def question_fields(settings: TaskSettings) -> tuple[str, ...]:
    """Return the names of the fields that a question has; none for a task that is not asked in fields.

    >>> question_fields(CustomSettings(prompt="{text}: {question}?", answer_column="answer"))
    ('text', 'question')
    """
    if isinstance(settings, CustomSettings):
        return tuple(prompt_columns(settings.prompt))
    if isinstance(settings, RowSettings) and set(PAIR) <= set(settings.columns):
        return PAIR
    return FIELDS.get(settings.name, ())


def question_row(settings: TaskSettings, values: Mapping[str, str]) -> Row:
    """Return the row of a question with these fields, without an answer.

    >>> question_row(CustomSettings(prompt="{text}", answer_column="answer"), {"text": "Hi"})
    {'text': 'Hi'}
    """
    row = {name: values.get(name, "") for name in question_fields(settings)}
    if set(row) == set(FIELDS["reading"]):
        return {"context": row["context"], "qas": [{"id": "1", "question": row["question"]}]}
    return row
