"""Recognise the task of a file of rows from its column names and cells.

Known column names decide first. Then come the strictest formats (multiple choice, the contest's arithmetic), then texts
with labels, then instructions, which nearly any text would fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

from lotune.data.file_readers import begins_with_object, read_json_document
from lotune.data.rows import read_rows
from lotune.data.tables import HeaderError
from lotune.errors import DataError
from lotune.tasks import multiple_choice, sentence_classification
from lotune.tasks.arithmetic.problem_types import recognise
from lotune.tasks.arithmetic.task import ArithmeticSettings, problem_and_solution
from lotune.tasks.instructions import row_formats
from lotune.tasks.instructions.task import InstructionsSettings
from lotune.tasks.multiple_choice import ChoiceSettings
from lotune.tasks.reading.task import ReadingSettings
from lotune.tasks.registry import build_task
from lotune.tasks.sentence_classification import SentencesSettings
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Row
from lotune.tasks.user_rows import text_or_empty

KNOWN_COLUMNS: Mapping[tuple[str, ...], TaskSettings] = {
    ("problem", "solution"): ArithmeticSettings(),
    ("context", "qas"): ReadingSettings(),
    ("Question", "A", "B", "C", "D"): ChoiceSettings(),
    ("question", "A", "B"): ChoiceSettings(),
    ("question", "options", "answer"): ChoiceSettings(),
    ("question", "choices", "answer"): ChoiceSettings(),
}
"""Settings by column names that decide the task; for other files see `settings_of`."""
MAPPABLE_FIELDS: Mapping[str, Sequence[str]] = {
    "arithmetic": ("problem", "solution"),
    "choice": multiple_choice.CHOICE_FIELDS,
    "sentences": sentence_classification.SENTENCE_FIELDS,
    "instructions": row_formats.INSTRUCTION_FIELDS,
}
"""Fields of each task's rows to which columns can be mapped."""
SAMPLE = 1_000
"""Number of rows that are inspected."""
PAIRS = (
    ("question1", "question2"), ("#1 String", "#2 String"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("first", "second"),
)  # fmt: skip
"""Common column names of the two texts of a pair; the first two are QQP's and MRPC's."""
SINGLES = ("sentence", "text", "review", "comment", "content", "tweet", "句子", "文本", "评论", "内容")
"""Common column names of a text with a label."""
LABEL_COLUMNS = (
    "is_duplicate", "Quality", "label", "labels", "class", "category", "sentiment", "gold_label", "标签",
    "类别", "情感",
)  # fmt: skip
"""Common column names of a label."""
REFERENCE_COLUMNS = (
    "answer",
    "label",
    "reference",
    "output",
    "response",
    "target",
    "key",
    "solution",
    "completion",
    "答案",
)
"""Common column names of a reference answer."""
POSITIVE = ("1", "true", "yes", "positive", "pos", "entailment", "duplicate", "spam", "正面", "是")
"""Labels that are the positive one of two."""
ABOUT = {1: "Which label fits this text? Answer {labels}.", 2: "Which label fits these two texts? Answer {labels}."}
"""The instruction for one text, or two, with labels of unknown meaning."""
LONG = 60
"""Median length of answers, in characters, above which ROUGE-L says more than equality."""
_MAX_LABELS = 50
# CoLA's third column: the acceptability mark of the source, such as "*", "?" or "??".
_COLA_MARKS = re.compile(r"[*? ]*")


def settings_of(path: Path) -> TaskSettings:
    """Return the settings of the task that reads the rows of a file or a folder.

    Raises: DataError if the rows are of no task, with their columns and a remedy; if the header and the rows differ in
    their number of columns, with a map by column number.
    """
    if _holds_passages(path):
        return ReadingSettings()
    try:
        file = read_rows(path, on_error="skip", headed=multiple_choice.names_columns)
    except HeaderError as error:
        raise with_map(error) from None
    sample = [row for _, row in islice(file.rows, SAMPLE)]
    return _settings(sample, (row for _, row in file.rows)) or _refuse(path, sample)


def with_map(error: HeaderError) -> DataError:
    """Return the error with a map from fields to column numbers as its remedy, if such a map gives rows of a task."""
    by_number = list(_by_numbers(error.records))
    by_name = [_with_label(settings, by_number) for settings in _by_names(error.header, error.records)]
    # Of equally good candidates `max` takes the first, so names, which the file gives, come before guesses from cells.
    best = max([*by_name, *by_number], key=lambda settings: _fraction_usable(settings, error.records), default=None)
    if best is None or not _fraction_usable(best, error.records):
        return error
    shown = ", ".join(f"{number} {cell[:24]!r}" for number, cell in enumerate(error.records[0], 1))
    remedy = f"name each column, or give the map in the recipe: task: {_flow(best)} (the columns: {shown})"
    return DataError(error.where, error.found, error.expected, remedy)


def _holds_passages(path: Path) -> bool:
    """Return whether a file is a document in SQuAD's layout."""
    if path.suffix.lower() != ".json" or not path.is_file() or not begins_with_object(path):
        return False
    document = read_json_document(path)
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def _settings(sample: Sequence[Row], rows: Iterable[Row]) -> TaskSettings | None:
    """Return the settings of the task of these rows, which begin with the sample; None if no task reads them."""
    first_row = sample[0]
    for columns, settings in KNOWN_COLUMNS.items():
        if set(columns) <= set(first_row):
            choices = isinstance(settings, ChoiceSettings)
            # MMLU on the Hugging Face Hub calls the domain `subject`.
            subject = choices and "domain" not in first_row and all("subject" in row for row in sample)
            return settings.model_copy(update={"columns": {"domain": "subject"}}) if subject else settings
    if _are_choices(sample):
        return ChoiceSettings()
    if any(_asks_arithmetic(row) for row in sample[:20]):
        return ArithmeticSettings()
    return _labelled(sample, rows) or _instructions(sample)


def _are_choices(rows: Sequence[Row]) -> bool:
    """Return whether nearly all rows have a question, options and a letter, as MMLU without a header or the contest's.

    >>> _are_choices([{"1": "Capital of Peru?", "2": "Lima", "3": "Cusco", "4": "A"}])
    True
    """
    bare = _is_bare(rows[0])
    if not bare and not all(isinstance(rows[0].get(name), str) for name in ("instruction", "input", "output")):
        return False
    if bare and not all(re.fullmatch(r"\s*[A-J]\s*", text_or_empty(list(row.values())[-1])) for row in rows):
        return False
    return _fraction(rows, lambda row: bool(multiple_choice.parse_question("", row).letter)) > 0.9


def _is_bare(row: Row) -> bool:
    """Return whether the columns of a table have numbers for names."""
    return list(row) == [str(number) for number in range(1, len(row) + 1)]


def _fraction(rows: Sequence[Row], condition: Callable[[Row], object]) -> float:
    """Return the fraction of rows that meet a condition; one that raises a DataError is not met."""

    def holds(row: Row) -> bool:
        try:
            return bool(condition(row))
        except DataError:
            return False

    return sum(map(holds, rows)) / len(rows)


def _asks_arithmetic(row: Row) -> bool:
    """Return whether a row is a conversation whose only question is one of the arithmetic task."""
    try:
        return "conversations" in row and recognise(problem_and_solution(row)[0]) is not None
    except DataError:
        return False


def _labelled(sample: Sequence[Row], rows: Iterable[Row]) -> TaskSettings | None:
    """Return the settings of texts, or pairs of texts, with labels; None for other rows."""
    columns = _unnamed_texts(sample) if _is_bare(sample[0]) else _named_texts(sample)
    if not columns:
        return None
    # The task has an instruction of its own for the files that it knows.
    benchmark = columns.get("first") in ("question1", "#1 String") or _is_cola(sample)
    # All rows are read for their labels: a rare one may be missing from the sample.
    label_column = columns.get("label")
    used = {text_or_empty(row.get(label_column)).strip() for row in rows} - {""} if label_column else set()
    default = used <= set(sentence_classification.DEFAULT_LABELS)
    labels = {} if default else {label: label for label in sorted(used, key=_positive_last)}
    instruction = None if benchmark else ABOUT[2 if "first" in columns else 1]
    return SentencesSettings(columns=columns, labels=labels, instruction=instruction)


def _positive_last(label: str) -> tuple[bool, str]:
    """Return a sort key that puts the positive label last, as `task.labels` expects it."""
    return label.lower() in POSITIVE, label


def _is_cola(rows: Sequence[Row]) -> bool:
    """Return whether the rows are CoLA's: source, label (not in the dev file), author's mark, sentence; no header."""
    if not _is_bare(rows[0]) or len(rows[0]) not in (3, 4):
        return False
    labelled = len(rows[0]) == 4
    marks = all(_COLA_MARKS.fullmatch(row["3" if labelled else "2"]) for row in rows)
    return marks and (not labelled or all(row["2"].strip() in sentence_classification.DEFAULT_LABELS for row in rows))


def _named_texts(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns of texts and labels by their names; empty if there are none."""
    by_lower = {name.strip().lower(): name for name in rows[0]}
    label = next((by_lower[name.lower()] for name in LABEL_COLUMNS if name.lower() in by_lower), None)
    pairs = ([by_lower.get(name.lower()) for name in pair] for pair in PAIRS)
    pair = next(([first, second] for first, second in pairs if first is not None and second is not None), None)
    single = next((by_lower[name] for name in SINGLES if name in by_lower), None)
    # QQP and MRPC are trusted without a look at their labels, which their test files lack.
    benchmark = pair is not None and set(pair) <= {*PAIRS[0], *PAIRS[1]}
    if label is not None and not benchmark and not _is_label([text_or_empty(row.get(label)) for row in rows]):
        return {}
    texts = {"first": pair[0], "second": pair[1]} if pair else {"sentence": single} if single else {}
    if not texts or (label is None and not benchmark):
        return {}
    return {**texts, "label": label} if label is not None else texts


def _unnamed_texts(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns of texts and labels by their numbers; empty if they are ambiguous."""
    if _is_cola(rows):
        return {"sentence": "4", "label": "2"} if len(rows[0]) == 4 else {"sentence": "3"}
    values = {name: [row[name] for row in rows] for name in rows[0]}
    labels = [name for name, cells in values.items() if _is_label(cells)]
    # Topics and sources repeat themselves like labels; a single column of 0 and 1 settles it.
    binary = [
        name for name in labels if set(map(str.strip, values[name])) == set(sentence_classification.DEFAULT_LABELS)
    ]
    texts = [name for name, cells in values.items() if _is_text(cells)]
    if len(binary) != 1 and len(labels) != 1:
        return {}
    label = binary[0] if len(binary) == 1 else labels[0]
    if len(texts) == 1:
        return {"sentence": texts[0], "label": label}
    return {"first": texts[0], "second": texts[1], "label": label} if len(texts) == 2 else {}


def _is_label(values: Sequence[str]) -> bool:
    """Return whether a column holds few short values that recur.

    >>> _is_label(["pos", "neg", "pos", "neg"]), _is_label(["a", "b", "c", "d"])
    (True, False)
    """
    distinct = {value.strip() for value in values if value.strip()}
    short = all(len(value) <= 40 and len(value.split()) <= 3 for value in distinct)
    return short and 2 <= len(distinct) <= min(_MAX_LABELS, len(values) // 2) and all(map(str.strip, values))


def _is_text(values: Sequence[str]) -> bool:
    return sum(map(len, values)) / len(values) >= 12 and len(set(values)) > len(values) / 2


def _instructions(rows: Sequence[Row]) -> TaskSettings | None:
    """Return the settings of instructions or conversations, with ROUGE-L as the scorer of long answers."""
    row_format = next(filter(None, map(row_formats.format_of, rows)), None)
    columns = row_formats.suggested_columns(rows[0])
    if row_format is None and not columns:
        return None
    # A prompt column is a prompt already: a template around it would add a second instruction.
    plain = "prompt" in columns or (row_format is not None and row_format.field == "prompt")
    mapped = ({**row, **{field: row.get(name) for field, name in columns.items()}} for row in rows[:200])
    answers = list(_answers(mapped))
    scorer = "rouge-l" if answers and median(map(len, answers)) > LONG else "exact"
    return InstructionsSettings(columns=columns, template="plain" if plain else "auto", scorer=scorer)


def _answers(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        try:
            answer = row_formats.conversation_of("", row).answers[-1]
        except DataError:
            continue
        if answer:
            yield answer


def _by_names(header: Sequence[str], records: Sequence[Sequence[str]]) -> Iterator[RowSettings]:
    """Yield settings with column numbers, for each position at which the header may lack names or have too many."""
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    lacking = len(records[0]) - len(names)
    # The front comes first: R writes tables with row names and no name above them. The end is the next likeliest.
    positions = [0, *range(len(names), 0, -1)] if lacking >= 0 else range(len(names) + lacking, -1, -1)
    for position in positions:
        unnamed = [f"column {number}" for number in range(max(lacking, 0))]
        aligned = [*names[:position], *unnamed, *names[position + max(-lacking, 0) :]]
        rows = [dict(zip(aligned, record, strict=True)) for record in records]
        settings = _settings(rows, rows) if all(aligned) and len(set(aligned)) == len(aligned) else None
        if isinstance(settings, RowSettings):
            yield _with_column_numbers(settings, aligned)


def _by_numbers(records: Sequence[Sequence[str]]) -> Iterator[RowSettings]:
    """Yield settings with column numbers, recognised from the cells alone."""
    rows = [{str(number): cell for number, cell in enumerate(record, 1)} for record in records]
    settings = _settings(rows, rows)
    if isinstance(settings, ChoiceSettings):
        options = multiple_choice.LETTERS[: len(rows[0]) - 2]
        yield _with_column_numbers(settings, ["question", *options, "answer"])
    elif isinstance(settings, RowSettings):
        yield settings


def _with_label(settings: RowSettings, by_number: Sequence[RowSettings]) -> RowSettings:
    """Return settings whose header names no label with the column that looks like one."""
    labels = [candidate.columns["label"] for candidate in by_number if "label" in candidate.columns]
    if not isinstance(settings, SentencesSettings) or "label" in settings.columns or not labels:
        return settings
    return settings.model_copy(update={"columns": {**settings.columns, "label": labels[0]}})


def _with_column_numbers(settings: RowSettings, names: Sequence[str]) -> RowSettings:
    """Return the settings with column numbers, from 1, instead of names."""
    by_lower = {name.lower(): name for name in names}
    fields = [field for field in MAPPABLE_FIELDS.get(settings.name, ()) if field.lower() in by_lower]
    column_by_field = settings.columns or {field: by_lower[field.lower()] for field in fields}
    columns = {field: str(names.index(name) + 1) for field, name in column_by_field.items()}
    return settings.model_copy(update={"columns": columns})


def _fraction_usable(settings: RowSettings, records: Sequence[Sequence[str]]) -> float:
    """Return the fraction of the first records that can be trained on with the columns of the settings."""
    task = build_task(settings.model_copy(update={"columns": {}}))
    rows = [
        {field: record[int(number) - 1] for field, number in settings.columns.items()} for record in islice(records, 50)
    ]
    return _fraction(rows, lambda row: list(task.examples([("", row)], training=True)))


def _flow(settings: TaskSettings) -> str:
    """Return the settings that differ from the defaults as YAML in one line.

    >>> _flow(SentencesSettings(columns={"label": "1"}))
    "{name: sentences, columns: {label: '1'}}"
    """
    import yaml

    shown = {"name": settings.name, **settings.model_dump(exclude_defaults=True)}
    return str(
        yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    ).strip()


def _refuse(path: Path, rows: Sequence[Row]) -> TaskSettings:
    """Raise DataError for rows of no task, with their columns and a remedy."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    shown = f"its rows have the fields {', '.join(fields) or '(none)'}"
    if _is_bare(rows[0]):
        cells = ", ".join(f"{number} {cell[:24]!r}" for number, cell in rows[0].items())
        shown = f"its columns have no names: {cells}"
    expected = (
        "problem, solution; question, options, answer; a text and a label; instruction, input, output; messages; "
        "conversations; prompt, completion; or SQuAD's layout"
    )
    raise DataError(str(path), shown, expected, _remedy(path, fields, rows))


def _remedy(path: Path, fields: Sequence[str], rows: Sequence[Row]) -> str:
    answer = next((name for column in REFERENCE_COLUMNS for name in fields if name.lower() == column), None)
    if "text" in fields and answer is None:
        return (
            f"use rows of text for pre-training: pretrain: {{corpus: {path}}} (see docs/how-to/a-base-of-your-own.md)"
        )
    if _is_bare(rows[0]):
        return "name the columns by number in a recipe, such as task: {name: sentences, columns: {sentence: '2'}}"
    if answer is None:
        close = row_formats.nearest_field(fields)
        return close or "define the prompt in a recipe: task: {name: custom, prompt: '{COLUMN}', answer_column: COLUMN}"
    texts = [name for name in fields if name != answer and isinstance(rows[0].get(name), str) and name.lower() != "id"]
    question = texts[0] if texts else "COLUMN"
    return f"define the prompt in a recipe: task: {{name: custom, prompt: '{{{question}}}', answer_column: {answer}}}"
