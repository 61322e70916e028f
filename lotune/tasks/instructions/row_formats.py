"""The shapes in which people keep instructions and conversations, known by the fields of a row.

| shape | fields of a row |
|---|---|
| messages | `messages`: turns {"role": system, user or assistant, "content": text} |
| conversations | `conversations`: turns {"from": system, human or gpt, "value": text}; `system` may stand beside them |
| alpaca | `instruction`, `output`, and perhaps `input` and `system` |
| completion | `prompt`, `completion` |

Both names of a speaker and both pairs of a turn's keys are understood in either kind of conversation.
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


@dataclass(frozen=True)
class RowFormat:
    """How rows of one shape are known (`field`), where their answer stands, and what else they may hold."""

    name: str
    field: str
    answer: str = ""
    others: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All its fields."""
        return tuple(filter(None, (self.field, *self.others, self.answer)))


ROW_FORMATS = (
    RowFormat("messages", "messages"),
    RowFormat("conversations", "conversations", others=("system",)),
    RowFormat("alpaca", "instruction", "output", ("input", "system", "history")),
    RowFormat("completion", "prompt", "completion"),
)
"""The shapes; a row with the fields of two is of the first one."""
INSTRUCTION_FIELDS = tuple(dict.fromkeys(field for shape in ROW_FORMATS for field in shape.fields))
"""Every field of every shape."""
EXPECTED = "instruction, input, output; messages; conversations; prompt, completion"
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant",
}  # fmt: skip
"""Who speaks, by what the files call it."""
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "instruction": ("question", "query", "task", "指令", "问题", "问"),
    "input": ("context", "passage", "输入", "背景"),
    "output": ("answer", "response", "solution", "target", "completion", "输出", "答案", "回答", "答"),
    "prompt": ("text",),
    "completion": ("output", "response", "answer"),
}
"""Names that files often give to a field."""


def shape_of(row: Row) -> RowFormat | None:
    """The shape of a row, None where it has the field of none.

    >>> shape_of({"instruction": "Add.", "input": "1 and 2", "output": "3"}).name
    'alpaca'
    """
    return next((shape for shape in ROW_FORMATS if shape.field in row), None)


def check_shapes(file: RowFile) -> None:
    """Nothing, where the rows that can be recognised are of one shape; the others are refused one by one when used.

    Raises: DataError for rows of two shapes, or where no row is recognised, with a column map that may mend it.
    """
    first: dict[str, str] = {}
    answered = False
    for where, row in file.rows:
        if shape := shape_of(row):
            first.setdefault(shape.name, where)
            answered |= shape.answer in row or not shape.answer
    if len(first) > 1:
        found = f"mixes shapes: {', '.join(f'{name} ({where})' for name, where in first.items())}"
        raise DataError(str(file.path), found, "rows of one shape", "put each shape into a file of its own")
    columns = suggested_columns(file.rows[0][1])
    if not first or (columns and not answered):
        refuse(file.path, [row for _, row in file.rows[:100]])


def refuse(path: Path, rows: Sequence[Row]) -> None:
    """Raises: DataError naming the fields of rows of no known shape, and what may mend it."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    columns = suggested_columns(fields)
    mapped = ", ".join(f"{wanted}: {name}" for wanted, name in columns.items())
    remedy = (
        f"name them in the recipe, task.columns: {{{mapped}}}"
        if mapped
        else nearest_field(fields) or "name them in task.columns"
    )
    raise DataError(str(path), f"its rows have the fields {', '.join(fields) or '(none)'}", EXPECTED, remedy)


def suggested_columns(fields: Collection[str]) -> dict[str, str]:
    """The column map that makes fields of other names those of a shape; empty where none does, or none is needed.

    >>> suggested_columns(["id", "question", "answer"])
    {'instruction': 'question', 'output': 'answer'}
    """
    for shape in ROW_FORMATS:
        if not shape.answer:
            continue
        free = [name for name in fields if name not in shape.fields]
        found = {field: name for field in (shape.field, "input", shape.answer) if (name := _meant(field, fields, free))}
        if {shape.field, shape.answer} <= set(found):
            return {field: name for field, name in found.items() if field != name and field in shape.fields}
    return {}


def conversation_of(where: str, row: Row) -> Conversation:
    """What a row says.

    Raises: DataError naming the row where it is of no shape, or a part of it is missing or no text.
    """
    shape = shape_of(row)
    if shape is None:
        found = f"has the fields {', '.join(row) or '(none)'}"
        raise DataError(
            where, found, EXPECTED, "name them in task.columns, such as {instruction: COLUMN, output: COLUMN}"
        )
    if not shape.answer:
        return _from_turns(where, row[shape.field], _text(where, row, "system"))
    if row.get("history"):
        raise DataError(where, "has a history", "messages, or conversations", "write the turns as messages")
    question, answer = _text(where, row, shape.field), _text(where, row, shape.answer)
    if not question.strip():
        raise DataError(where, f"has an empty {shape.field}", "a text")
    system, input = (_text(where, row, name) if name in shape.others else "" for name in ("system", "input"))
    return Conversation((question,), (answer,), system, input)


def _meant(field: str, fields: Collection[str], free: Sequence[str]) -> str:
    """The field's own name where it is there, else another name for it, else one spelt nearly like it, else ""."""
    if field in fields:
        return field
    plain = {name.strip().lower(): name for name in free}
    close = [name for name in OTHER_NAMES.get(field, ()) if name in plain] or get_close_matches(field, plain, 1, 0.8)
    return plain[close[0]] if close else ""


def nearest_field(fields: Iterable[str]) -> str:
    """The clause that names the fields that are spelt nearly like these; empty where none is."""
    near = [(name, close[0]) for name in fields if (close := get_close_matches(name.lower(), INSTRUCTION_FIELDS, 1))]
    return "; ".join(f"did you mean {wanted} by {name}?" for name, wanted in near)


def _text(where: str, row: Row, field: str) -> str:
    """A text of a row; one that is missing or null is empty. Raises: DataError for another value."""
    value = row.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(where, f"{field} is {type(value).__name__}, not a text", "a text")
    return value or ""


def _from_turns(where: str, turns: Any, system: str) -> Conversation:
    """Raises: DataError where the turns are not questions and answers by turns, after one system message at most."""
    if not isinstance(turns, list):
        raise DataError(where, "has no list of turns", "turns of user and assistant")
    said = [_speaker_and_text(where, number, turn) for number, turn in enumerate(turns, 1)]
    first = 1 if said and said[0][0] == "system" else 0
    if first:
        system = "\n\n".join(filter(None, (system, said[0][1])))
    for number, (speaker, _) in enumerate(said[first:]):
        wanted = ("user", "assistant")[number % 2]
        if speaker != wanted:
            found = f"turn {first + number + 1} is of {speaker}, not of {wanted}"
            raise DataError(where, found, "user and assistant in turn, after one system message at most")
    if len(said) == first:
        raise DataError(where, "has no question", "turns of user and assistant")
    texts = [text for _, text in said[first:]]
    return Conversation(tuple(texts[::2]), (*texts[1::2], *[""] * (len(texts) % 2)), system)


def _speaker_and_text(where: str, number: int, turn: Any) -> tuple[str, str]:
    """Raises: DataError for a turn of someone else, or without a text."""
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
