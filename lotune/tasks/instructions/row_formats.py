"""Formats of instructions and conversations, recognised by the fields of a row.

| format | fields of a row |
|---|---|
| messages | `messages`: turns {"role": system, user or assistant, "content": text} |
| conversations | `conversations`: turns {"from": system, human or gpt, "value": text}; optionally `system` |
| alpaca | `instruction`, `output`, optionally `input` and `system` |
| completion | `prompt`, `completion` |

Turns of either format may use the speakers and the keys of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lotune.data.conversation import Conversation
from lotune.data.rows import RowFile
from lotune.errors import DataError
from lotune.tasks.task import Row
from lotune.tasks.user_rows import text_or_empty


@dataclass(frozen=True)
class RowFormat:
    """A format: the field that identifies its rows, the field of the answer, and optional fields."""

    name: str
    field: str
    answer: str = ""
    optional: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All its fields."""
        return tuple(filter(None, (self.field, *self.optional, self.answer)))


ROW_FORMATS = (
    RowFormat("messages", "messages"),
    RowFormat("conversations", "conversations", optional=("system",)),
    RowFormat("alpaca", "instruction", "output", ("input", "system", "history")),
    RowFormat("completion", "prompt", "completion"),
)
"""The formats; the first one wins if a row has the fields of two."""
INSTRUCTION_FIELDS = tuple(dict.fromkeys(field for format in ROW_FORMATS for field in format.fields))
"""The fields of all formats."""
EXPECTED = "instruction, input, output; messages; conversations; prompt, completion"
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant",
}  # fmt: skip
"""Role of a message by the name of its speaker in the file."""
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "instruction": ("question", "query", "task", "指令", "问题", "问"),
    "input": ("context", "passage", "输入", "背景"),
    "output": ("answer", "response", "solution", "target", "completion", "输出", "答案", "回答", "答"),
    "prompt": ("text",),
    "completion": ("output", "response", "answer"),
}
"""Other names that files often use for a field."""


def format_of(row: Row) -> RowFormat | None:
    """Return the format of a row; None if it has the field of no format.

    >>> format_of({"instruction": "Add.", "input": "1 and 2", "output": "3"}).name
    'alpaca'
    """
    return next((format for format in ROW_FORMATS if format.field in row), None)


def check_formats(file: RowFile) -> None:
    """Check that the recognised rows of a file have one format. Unrecognised rows are refused when they are used.

    Raises: DataError if rows have two formats, or if no row is recognised; it suggests a column map if there is one.
    """
    first_row_by_format: dict[str, str] = {}
    has_answers = False
    for where, row in file.rows:
        if format := format_of(row):
            first_row_by_format.setdefault(format.name, where)
            has_answers |= format.answer in row or not format.answer
    if len(first_row_by_format) > 1:
        formats = ", ".join(f"{name} ({where})" for name, where in first_row_by_format.items())
        raise DataError(str(file.path), f"mixes formats: {formats}", "rows of one format", "use one file per format")
    columns = suggested_columns(file.rows[0][1])
    if not first_row_by_format or (columns and not has_answers):
        refuse(file.path, [row for _, row in file.rows[:100]])


def refuse(path: Path, rows: Sequence[Row]) -> None:
    """Raise DataError with the fields of rows of an unknown format, and with a remedy."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    columns = suggested_columns(fields)
    mapped = ", ".join(f"{field}: {name}" for field, name in columns.items())
    remedy = (
        f"name them in the recipe, task.columns: {{{mapped}}}"
        if mapped
        else nearest_field(fields) or "name them in task.columns"
    )
    raise DataError(str(path), f"its rows have the fields {', '.join(fields) or '(none)'}", EXPECTED, remedy)


def suggested_columns(fields: Collection[str]) -> dict[str, str]:
    """Return a column map that turns fields with other names into those of a format; empty if none is needed or fits.

    >>> suggested_columns(["id", "question", "answer"])
    {'instruction': 'question', 'output': 'answer'}
    """
    for format in ROW_FORMATS:
        if not format.answer:
            continue
        free, mapped = [name for name in fields if name not in format.fields], (format.field, "input", format.answer)
        columns = {field: name for field in mapped if (name := _closest_name(field, fields, free))}
        if {format.field, format.answer} <= set(columns):
            return {field: name for field, name in columns.items() if field != name and field in format.fields}
    return {}


def conversation_of(where: str, row: Row) -> Conversation:
    """Return the conversation of a row.

    Raises: DataError that names the row if its format is unknown, or if a part of it is missing or not a text.
    """
    format = format_of(row)
    if format is None:
        remedy = "name them in task.columns, such as {instruction: COLUMN, output: COLUMN}"
        raise DataError(where, f"has the fields {', '.join(row) or '(none)'}", EXPECTED, remedy)
    if not format.answer:
        return _from_turns(where, row[format.field], _text(where, row, "system"))
    if row.get("history"):
        raise DataError(where, "has a history", "messages, or conversations", "write the turns as messages")
    question, answer = _text(where, row, format.field), _text(where, row, format.answer)
    if not question.strip():
        raise DataError(where, f"has an empty {format.field}", "a text")
    system, input = (_text(where, row, name) if name in format.optional else "" for name in ("system", "input"))
    return Conversation((question,), (answer,), system, input)


def _closest_name(field: str, fields: Collection[str], free: Sequence[str]) -> str:
    """Return the field itself if it is present, else one of its other names, else a close spelling, else ""."""
    if field in fields:
        return field
    by_lower_case = {name.strip().lower(): name for name in free}
    matches = [name for name in OTHER_NAMES.get(field, ()) if name in by_lower_case]
    matches = matches or get_close_matches(field, by_lower_case, 1, 0.8)
    return by_lower_case[matches[0]] if matches else ""


def nearest_field(fields: Iterable[str]) -> str:
    """Return a clause with the closest field of a format for each of these fields; empty if none is close."""
    near = [(name, close[0]) for name in fields if (close := get_close_matches(name.lower(), INSTRUCTION_FIELDS, 1))]
    return "; ".join(f"did you mean {field} by {name}?" for name, field in near)


def _text(where: str, row: Row, field: str) -> str:
    """Return a text, or a number as text; empty if it is missing or null. Raises: DataError for another value."""
    value = row.get(field)
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(where, f"{field} is {type(value).__name__}, not a text", "a text")
    return text_or_empty(value)


def _from_turns(where: str, turns: Any, system: str) -> Conversation:
    """Return a conversation of turns.

    Raises: DataError unless the turns alternate between user and assistant, after at most one system message.
    """
    if not isinstance(turns, list):
        raise DataError(where, "has no list of turns", "turns of user and assistant")
    messages = [_speaker_and_text(where, number, turn) for number, turn in enumerate(turns, 1)]
    start = 1 if messages and messages[0][0] == "system" else 0
    if start:
        system = "\n\n".join(filter(None, (system, messages[0][1])))
    for number, (speaker, _) in enumerate(messages[start:]):
        role = ("user", "assistant")[number % 2]
        if speaker != role:
            found = f"turn {start + number + 1} is of {speaker}, not of {role}"
            raise DataError(where, found, "user and assistant in turn, after one system message at most")
    if len(messages) == start:
        raise DataError(where, "has no question", "turns of user and assistant")
    texts = [text for _, text in messages[start:]]
    return Conversation(tuple(texts[::2]), (*texts[1::2], *[""] * (len(texts) % 2)), system)


def _speaker_and_text(where: str, number: int, turn: Any) -> tuple[str, str]:
    """Return role and text of a turn. Raises: DataError for an unknown speaker, a missing text or a weight."""
    parts: Mapping[str, Any] = turn if isinstance(turn, Mapping) else {}
    speaker, text = parts.get("role", parts.get("from")), parts.get("content", parts.get("value"))
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise DataError(where, f"turn {number} is of {speaker!r:.40}", f"one of {', '.join(ROLES)}")
    if not isinstance(text, str) or not text.strip():
        raise DataError(where, f"turn {number} has no text", "a text as content or value")
    if parts.get("weight", 1) != 1:
        raise DataError(
            where, f"turn {number} has a weight of its own", "none", "say which answers with task.train_on_turns"
        )
    return ROLES[speaker], text
