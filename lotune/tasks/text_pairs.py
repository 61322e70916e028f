"""Recognise instructions, conversations, and texts with an answer in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lotune.errors import DataError
from lotune.tasks.answer_measures import scorer_for
from lotune.tasks.candidates import Candidate, Decision, mapped
from lotune.tasks.columns import Column, usable
from lotune.tasks.instructions import row_formats
from lotune.tasks.instructions.task import InstructionsSettings
from lotune.tasks.task import Row

QUESTIONS = (
    "question", "query", "task", "input", "source", "src", "text", "article", "document", "dialogue", "dialog",
    "passage", "original", "sentence", "body", "content", "problem", "user", "human", "before", "x", "en", "指令",
    "问题", "问", "提问", "输入", "原文", "文本", "正文", "文章", "内容", "用户",
)  # fmt: skip
"""Common column names of a text that is answered, the likeliest first."""
ANSWERS = (
    "output", "completion", "response", "answer", "answers", "target", "tgt", "summary", "highlights", "reply",
    "translation", "solution", "sql", "label", "reference", "result", "corrected", "rewritten", "rewrite",
    "paraphrase", "assistant", "bot", "gpt", "chosen", "after", "y", "zh", "输出", "答案", "回答", "答", "回复", "译文",
    "摘要", "总结", "标题", "改写", "助手",
)  # fmt: skip
"""Common column names of an answer."""
INSPECTED_ANSWERS = 200
"""Number of answers that decide how answers are judged."""


def paired(rows: Sequence[Row], columns: Sequence[Column], wanted: Mapping[str, str]) -> Candidate | None:
    """Return the candidate of instructions, conversations or texts with answers; None for other rows.

    `wanted` are columns that the user names, by role.
    """
    row_format = next(filter(None, map(row_formats.format_of, rows)), None)
    chosen, by_position = _chosen_columns(rows, columns, wanted)
    if row_format is None and not chosen:
        return None
    # A prompt column is a prompt already: a template around it would add a second instruction.
    plain = "completion" in chosen or (not chosen and row_format is not None and row_format.field == "prompt")
    renamed = ({**row, **{role: row.get(name) for role, name in chosen.items()}} for row in rows[:INSPECTED_ANSWERS])
    scorer, reason = scorer_for(list(_answers(renamed)))
    settings = InstructionsSettings(columns=chosen, template="plain" if plain else "auto", scorer=scorer)
    return Candidate(settings, tuple(_decisions(settings, row_format, by_position, reason)), _others(columns, settings))


def _decisions(
    settings: InstructionsSettings, row_format: row_formats.RowFormat | None, by_position: bool, reason: str
) -> Iterator[Decision]:
    named = f"rows of the format {row_format.name}" if row_format and not settings.columns else "texts with answers"
    yield Decision(f"task: instructions, {named}", "--task")
    if settings.columns:
        position = ", by their position" if by_position else ""
        yield Decision(f"columns: {mapped(settings.columns)}{position}", "--column ROLE=NAME")
    if settings.template == "plain":
        yield Decision("template: plain, as a prompt column holds whole prompts", "task.template")
    yield Decision(f"measure: {settings.scorer}, as {reason}", "task.scorer")


def _chosen_columns(
    rows: Sequence[Row], columns: Sequence[Column], wanted: Mapping[str, str]
) -> tuple[dict[str, str], bool]:
    """Return the columns by role, none if they have the names of a format, and whether position decided."""
    by_lower = {column.name.strip().lower(): column.name for column in columns if column.kind != "empty"}
    completion = bool({"prompt", "completion"} & set(wanted)) or (not wanted and "prompt" in by_lower)
    question, answer = ("prompt", "completion") if completion else ("instruction", "output")
    if not wanted and any(row_formats.format_of(row) and _is_complete(row) for row in rows[:20]):
        return {}, False
    names = {name: column for name, column in by_lower.items() if column not in wanted.values()}
    chosen = _named(names, wanted, question, answer)
    by_position = not {question, answer} <= set(chosen)
    if by_position:
        chosen = _by_position(columns, wanted, chosen, question, answer)
    if not {question, answer} <= set(chosen):
        return {}, False
    context = next(
        (by_lower[name] for name in _CONTEXTS if by_lower.get(name, chosen[question]) != chosen[question]), ""
    )
    if context and question == "instruction" and context not in chosen.values():
        chosen["input"] = context
    ordered = sorted(chosen.items(), key=lambda item: item[0] == answer)
    return {role: name for role, name in ordered if role != name}, by_position


_CONTEXTS = ("input", *row_formats.OTHER_NAMES["input"])


def _is_complete(row: Row) -> bool:
    """Return whether a row has all fields of its format, or is a conversation."""
    row_format = row_formats.format_of(row)
    return row_format is not None and (not row_format.answer or row_format.answer in row)


def _named(names: Mapping[str, str], chosen: Mapping[str, str], question: str, answer: str) -> dict[str, str]:
    """Return the columns with the first common name of a question and of an answer."""
    found = dict(chosen)
    if answer not in found and (name := next((names[name] for name in (answer, *ANSWERS) if name in names), None)):
        found[answer] = name
    taken = set(found.values())
    questions = [names[name] for name in (question, *QUESTIONS) if name in names and names[name] not in taken]
    if question not in found and questions:
        found[question] = questions[0]
    return found


def _by_position(
    columns: Sequence[Column], wanted: Mapping[str, str], named: Mapping[str, str], question: str, answer: str
) -> dict[str, str]:
    """Return the only two columns as question and answer, or the only other one; `named` if there are more."""
    free = [column for column in usable(columns) if column.name not in wanted.values()]
    missing = [role for role in (question, answer) if role not in wanted]
    if len(free) < len(missing):
        # Dates and sources are left out only where other columns remain.
        others = (column for column in columns if column.kind in ("text", "label", "number", "metadata"))
        free = [column for column in others if column.name not in wanted.values()]
    if len(free) != len(missing) or (not wanted and free[0].kind in ("number", "label")):
        return dict(named)
    placed = {role: column.name for role, column in zip(missing, free, strict=True)}
    # A title before its text is an article and no question: position must not contradict a name.
    if any(placed.get(role, name) != name for role, name in named.items()):
        return dict(named)
    return {**named, **placed}


def _others(columns: Sequence[Column], settings: InstructionsSettings) -> tuple[Decision, ...]:
    """Return other readings: few answers as labels, other columns of texts as answers."""
    answer = settings.columns.get("output") or settings.columns.get("completion")
    others = []
    for column in usable(columns):
        if column.name == (answer or "output") and column.kind == "label":
            others.append(Decision("its answers are labels", f"--task sentences --column label={column.name}"))
        elif answer and column.name not in settings.columns.values() and column.kind == "text":
            others.append(Decision(f"{column.name!r} is the answer", f"--column output={column.name}"))
    return tuple(others)


def _answers(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        try:
            answer = row_formats.conversation_of("", row).answers[-1]
        except DataError:
            continue
        if answer:
            yield answer
