"""Recognise the task of a file of rows from its column names and cells, with a reason for each decision.

Known column names decide first. Then come the strictest formats (multiple choice, the contest's arithmetic), then texts
with labels, then instructions, which nearly any text would fit. What the user names is not decided again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lotune.data.file_readers import begins_with_object, read_json_document
from lotune.data.rows import closest_columns_hint, read_rows
from lotune.data.tables import HeaderError
from lotune.errors import DataError, SettingsError
from lotune.tasks import multiple_choice
from lotune.tasks.arithmetic.problem_types import recognise
from lotune.tasks.arithmetic.task import ArithmeticSettings, problem_and_solution
from lotune.tasks.broken_headers import MAPPABLE_FIELDS, with_map
from lotune.tasks.candidates import Candidate, Decision, Wanted, fraction, is_bare, mapped
from lotune.tasks.columns import LEFT_OUT, SAMPLE, Column, columns_of
from lotune.tasks.custom import CustomSettings
from lotune.tasks.instructions import row_formats
from lotune.tasks.instructions.task import InstructionsSettings
from lotune.tasks.labelled_texts import labelled
from lotune.tasks.multiple_choice import ChoiceSettings
from lotune.tasks.reading.task import ReadingSettings
from lotune.tasks.registry import entry_named, task_settings
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Row
from lotune.tasks.text_pairs import ANSWERS, paired
from lotune.tasks.user_rows import text_or_empty

PRIME = 7919
"""Factor by which the place of a sampled row within its part goes on."""
KNOWN_COLUMNS: Mapping[tuple[str, ...], TaskSettings] = {
    ("problem", "solution"): ArithmeticSettings(),
    ("context", "qas"): ReadingSettings(),
    ("Question", "A", "B", "C", "D"): ChoiceSettings(),
    ("question", "A", "B"): ChoiceSettings(),
    ("question", "options", "answer"): ChoiceSettings(),
    ("question", "choices", "answer"): ChoiceSettings(),
}
"""Settings by column names that decide the task; for other files see `candidate_of`."""
ROLES: Mapping[str, Sequence[str]] = {
    "sentences": ("sentence", "first", "second", "label"),
    "instructions": ("instruction", "input", "output", "system", "prompt", "completion"),
    "choice": ("question", "options", "answer", "domain", *multiple_choice.LETTERS),
    "arithmetic": ("problem", "solution"),
    "custom": ("prompt", "answer"),
}
"""Roles that columns can have in each task; of several tasks with a role, the first one is meant."""
ROLE_NAMES: Mapping[str, Mapping[str, str]] = {
    "sentences": {"text": "sentence", "class": "label", "answer": "label"},
    "instructions": {"question": "instruction", "text": "instruction", "answer": "output", "response": "output",
                     "target": "output", "context": "input"},
    "custom": {"question": "prompt", "text": "prompt", "input": "prompt", "output": "answer", "completion": "answer"},
}  # fmt: skip
"""Other names of roles that are understood."""


def settings_of(path: Path) -> TaskSettings:
    """Return the settings of the task that reads the rows of a file or a folder. Raises as `candidate_of`."""
    return candidate_of(path).settings


def candidate_of(path: Path, wanted: Wanted | None = None) -> Candidate:
    """Return the likeliest task of the rows of a file or a folder, with its decisions and other readings.

    Raises: DataError if the rows are of no task, with their columns and a remedy; if the header and the rows differ in
    their number of columns, with a map by column number; SettingsError for a task or a column that does not exist.
    """
    wanted = wanted or Wanted()
    if wanted.task is not None:
        entry_named(wanted.task)
    if wanted.task in (None, "reading") and (wanted.task or _holds_passages(path)):
        return Candidate(ReadingSettings(), (Decision("task: reading, passages with questions", "--task"),))
    if wanted.task is not None and wanted.task not in ROLES:
        _roles(wanted.task, wanted.columns)  # refuses any column
        return Candidate(task_settings(wanted.task), (Decision(f"task: {wanted.task}", "--task"),))
    try:
        file = read_rows(path, on_error="skip", headed=multiple_choice.names_columns)
    except HeaderError as error:
        raise with_map(error, _settings) from None
    sample = [file.rows[index][1] for index in spread_indices(len(file.rows))]
    columns = columns_of(sample)
    _check_columns(path, wanted, columns)
    rows = (row for _, row in file.rows)
    if wanted.task is not None or wanted.columns:
        candidate = _as_wanted(path, sample, columns, rows, wanted)
    else:
        found = _known(sample)
        candidate = found or labelled(sample, columns, rows, {}) or paired(sample, columns, {}) or _refuse(path, sample)
    return _with_left_out(candidate, columns)


def spread_indices(count: int) -> list[int]:
    """Return indices of up to SAMPLE rows of a file, one of each part of equal length.

    The first rows of a sorted file have one label only, and so have every second rows where two labels take turns: the
    place within its part differs from row to row.

    >>> spread_indices(3), spread_indices(3000)[:4]
    ([0, 1, 2], [0, 5, 7, 9])
    """
    step = -(-count // SAMPLE)
    return [min(start + (start // step) * PRIME % step, count - 1) for start in range(0, count, step)]


def _settings(rows: Sequence[Row]) -> TaskSettings | None:
    """Return the settings of the task of these rows; None if no task reads them."""
    columns = columns_of(rows)
    candidate = _known(rows) or labelled(rows, columns, rows, {}) or paired(rows, columns, {})
    return candidate.settings if candidate is not None else None


def _known(sample: Sequence[Row]) -> Candidate | None:
    """Return the candidate of rows in a format that their columns or cells identify."""
    first_row = sample[0]
    for columns, settings in KNOWN_COLUMNS.items():
        if set(columns) <= set(first_row):
            choices = isinstance(settings, ChoiceSettings)
            # MMLU on the Hugging Face Hub calls the domain `subject`.
            subject = choices and "domain" not in first_row and all("subject" in row for row in sample)
            settings = settings.model_copy(update={"columns": {"domain": "subject"}}) if subject else settings
            return _described(settings, f"the columns {', '.join(columns)}")
    if _are_choices(sample):
        return _described(ChoiceSettings(), "questions with lettered options")
    if any(_asks_arithmetic(row) for row in sample[:20]):
        return _described(ArithmeticSettings(), "conversations that ask for a calculation")
    return None


def _described(settings: TaskSettings, found: str) -> Candidate:
    return Candidate(settings, (Decision(f"task: {settings.name}, {found}", "--task"),))


def _as_wanted(
    path: Path, sample: Sequence[Row], columns: Sequence[Column], rows: Iterable[Row], wanted: Wanted
) -> Candidate:
    """Return the candidate of the task and the columns that the user names."""
    task = wanted.task or _task_of(wanted.columns)
    roles = _roles(task, wanted.columns)
    candidate: Candidate | None = None
    if task == "sentences":
        candidate = labelled(sample, columns, rows, roles)
    elif task == "instructions":
        candidate = paired(sample, columns, roles)
    elif task == "custom":
        candidate = _custom(sample, columns, roles)
    elif task in ROLES:
        settings = task_settings(task, columns=roles)
        return Candidate(settings, (Decision(f"task: {task}; columns: {mapped(roles) or 'as they are'}", "--column"),))
    if candidate is not None:
        return candidate
    names = ", ".join(column.name for column in columns)
    missing = " ".join(f"--column {role}=NAME" for role in ROLES[task][:: 3 if task == "sentences" else 2][:2])
    raise DataError(str(path), f"does not show which columns {task} has (its columns: {names})", remedy=missing)


def _task_of(columns: Mapping[str, str]) -> str:
    """Return the first task that has all these roles. Raises: SettingsError if there is none."""
    for task, roles in ROLES.items():
        if set(columns) <= {*roles, *ROLE_NAMES.get(task, {})}:
            return task
    raise SettingsError("--column", f"no task has the roles {', '.join(columns)}", _roles_in_words())


def _roles_in_words() -> str:
    return "; ".join(f"{task}: {', '.join(roles)}" for task, roles in ROLES.items())


def _roles(task: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns by the roles of a task. Raises: SettingsError for a role that it does not have."""
    names = ROLE_NAMES.get(task, {})
    roles = {names.get(role, role): name for role, name in columns.items()}
    # A prompt is completed, an instruction has an output.
    if task == "instructions" and "prompt" in roles and "output" in roles:
        roles["completion"] = roles.pop("output")
    if unknown := [role for role in roles if role not in (*ROLES.get(task, ()), *MAPPABLE_FIELDS.get(task, ()))]:
        expected = f"one of {', '.join(ROLES.get(task, ())) or 'none'}"
        raise SettingsError("--column", f"{task} has no role {', '.join(unknown)}", expected)
    return roles


def _check_columns(path: Path, wanted: Wanted, columns: Sequence[Column]) -> None:
    """Raise SettingsError for a column that the file does not have, with the closest one."""
    names = [column.name for column in columns]
    if missing := [name for name in wanted.columns.values() if name not in names]:
        found = f"{path} has no column {', '.join(map(repr, missing))}{closest_columns_hint(missing, names)}"
        raise SettingsError("--column", found, f"one of {', '.join(names)}")


def _custom(sample: Sequence[Row], columns: Sequence[Column], roles: Mapping[str, str]) -> Candidate | None:
    """Return the candidate of the task custom: a column as the prompt, another as the answer."""
    names = {"prompt": "instruction", "answer": "output"}
    candidate = paired(sample, columns, {names[role]: name for role, name in roles.items()})
    if candidate is None or not isinstance(candidate.settings, InstructionsSettings):
        return None
    chosen = {"instruction": "instruction", "output": "output", **candidate.settings.columns}
    prompt = chosen.get("prompt", chosen["instruction"])
    answer = chosen.get("completion", chosen["output"])
    settings = CustomSettings(prompt=f"{{{prompt}}}", answer_column=answer, scorer=candidate.settings.scorer)
    decisions = (
        Decision("task: custom, a prompt of your own", "--task"),
        Decision(f"prompt: {prompt!r}, answer: {answer!r}", "task.prompt, task.answer_column"),
        *(decision for decision in candidate.decisions if decision.text.startswith("measure")),
    )
    return Candidate(settings, decisions)


def _with_left_out(candidate: Candidate, columns: Sequence[Column]) -> Candidate:
    """Return the candidate with the columns that say nothing about an answer as a further decision."""
    settings = candidate.settings
    used = set(settings.columns.values()) if isinstance(settings, RowSettings) else set()
    left_out = [
        f"{column.name!r} ({LEFT_OUT[column.kind]})"
        for column in columns
        if used and column.kind in LEFT_OUT and column.name not in used
    ]
    if not left_out:
        return candidate
    decision = Decision(f"left out: {', '.join(left_out)}", "--column ROLE=NAME")
    return Candidate(settings, (*candidate.decisions, decision), candidate.others)


def _holds_passages(path: Path) -> bool:
    """Return whether a file is a document in SQuAD's layout."""
    if path.suffix.lower() != ".json" or not path.is_file() or not begins_with_object(path):
        return False
    document = read_json_document(path)
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def _are_choices(rows: Sequence[Row]) -> bool:
    """Return whether nearly all rows have a question, options and a letter, as MMLU without a header or the contest's.

    >>> _are_choices([{"1": "Capital of Peru?", "2": "Lima", "3": "Cusco", "4": "A"}])
    True
    """
    bare = is_bare(rows[0])
    if not bare and not all(isinstance(rows[0].get(name), str) for name in ("instruction", "input", "output")):
        return False
    if bare and not all(re.fullmatch(r"\s*[A-J]\s*", text_or_empty(list(row.values())[-1])) for row in rows):
        return False
    return fraction(rows, lambda row: bool(multiple_choice.parse_question("", row).letter)) > 0.9


def _asks_arithmetic(row: Row) -> bool:
    """Return whether a row is a conversation whose only question is one of the arithmetic task."""
    try:
        return "conversations" in row and recognise(problem_and_solution(row)[0]) is not None
    except DataError:
        return False


def _refuse(path: Path, rows: Sequence[Row]) -> NoReturn:
    """Raise DataError for rows of no task, with their columns and a remedy."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    shown = f"its rows have the fields {', '.join(fields) or '(none)'}"
    if is_bare(rows[0]):
        cells = ", ".join(f"{number} {cell[:24]!r}" for number, cell in rows[0].items())
        shown = f"its columns have no names: {cells}"
    expected = (
        "problem, solution; question, options, answer; a text and a label; instruction, input, output; messages; "
        "conversations; prompt, completion; or SQuAD's layout"
    )
    raise DataError(str(path), shown, expected, _remedy(path, fields, rows))


def _remedy(path: Path, fields: Sequence[str], rows: Sequence[Row]) -> str:
    answer = next((name for column in ANSWERS for name in fields if name.lower() == column), None)
    nested = any(isinstance(value, list | dict) for value in rows[0].values())
    if "text" in fields and answer is None and not nested:
        return (
            f"use rows of text for pre-training: pretrain: {{corpus: {path}}} (see docs/how-to/a-base-of-your-own.md)"
        )
    if is_bare(rows[0]):
        return "say which column holds what by its number: --column question=1 --column answer=2, or text= and label="
    if answer is None:
        close = row_formats.nearest_field(fields)
        return close or "say which column holds what: --column question=NAME --column answer=NAME, or text= and label="
    texts = [name for name in fields if name != answer and isinstance(rows[0].get(name), str) and name.lower() != "id"]
    question = texts[0] if texts else "NAME"
    return f"say which column holds what, such as --column question={question} --column answer={answer}"
