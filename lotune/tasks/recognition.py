"""Which task a file of rows is for: told from the names of its columns and from what stands in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

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
"""Columns by which a file's task is known; other files are told by what stands in them, see `settings_of`."""
MAPPABLE_FIELDS: Mapping[str, Sequence[str]] = {
    "arithmetic": ("problem", "solution"),
    "choice": multiple_choice.CHOICE_FIELDS,
    "sentences": sentence_classification.SENTENCE_FIELDS,
    "instructions": row_formats.INSTRUCTION_FIELDS,
}
"""The fields of a task's rows that columns may be mapped to."""
SAMPLE = 1_000
"""Rows from which a task is told."""
PAIRS = (
    ("question1", "question2"), ("#1 String", "#2 String"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("first", "second"),
)  # fmt: skip
"""Names that files give to the two texts of a pair; the first two are QQP's and MRPC's."""
SINGLES = ("sentence", "text", "review", "comment", "content", "tweet", "句子", "文本", "评论", "内容")
"""Names that files give to a text with a label."""
LABEL_COLUMNS = (
    "is_duplicate", "Quality", "label", "labels", "class", "category", "sentiment", "gold_label", "标签",
    "类别", "情感",
)  # fmt: skip
"""Names that files give to a label."""
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
"""Names that files give to what an answer is compared with."""
POSITIVE = ("1", "true", "yes", "positive", "pos", "entailment", "duplicate", "spam", "正面", "是")
"""Labels that are the positive one of their kind."""
ABOUT = {1: "Which label fits this text? Answer {labels}.", 2: "Which label fits these two texts? Answer {labels}."}
"""The instruction for one text or two whose labels have no meaning that is known."""
LONG = 60
"""Characters of an answer from which the words that it has in common with the key say more than equality."""
_MAX_LABELS = 50
_MARKS = re.compile(r"[*? ]*")


def settings_of(path: Path) -> TaskSettings:
    """The settings of the task that reads the rows of a file or a folder.

    Raises: DataError where the rows are of no task, naming their columns and what helps; where the header has other
    columns than the rows, with the map by number that mends it.
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
    """The same error with the recipe's map from fields to numbers of columns, where one makes rows of a task."""
    bare = list(_by_numbers(error.records))
    named = [_with_label(one, bare) for one in _by_names(error.header, error.records)]
    found = [*named, *bare]
    best = max(found, key=lambda one: _usable(one, error.records), default=None)
    if best is None or not _usable(best, error.records):
        return error
    shown = ", ".join(f"{number} {cell[:24]!r}" for number, cell in enumerate(error.records[0], 1))
    remedy = f"name each column, or give the map in the recipe: task: {_flow(best)} (the columns: {shown})"
    return DataError(error.where, error.found, error.expected, remedy)


def _holds_passages(path: Path) -> bool:
    """Whether a file is a document in SQuAD's layout."""
    if path.suffix.lower() != ".json" or not path.is_file() or not begins_with_object(path):
        return False
    document = read_json_document(path)
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def _settings(sample: Sequence[Row], rows: Iterable[Row]) -> TaskSettings | None:
    """The settings of the task of these rows, which begin with the sample; None where they are of none."""
    first = sample[0]
    for wanted, settings in KNOWN_COLUMNS.items():
        if set(wanted) <= set(first):
            choices = isinstance(settings, ChoiceSettings)
            subject = choices and "domain" not in first and all("subject" in row for row in sample)
            return settings.model_copy(update={"columns": {"domain": "subject"}}) if subject else settings
    if _are_choices(sample):
        return ChoiceSettings()
    if any(_asks_arithmetic(row) for row in sample[:20]):
        return ArithmeticSettings()
    return _labelled(sample, rows) or _instructions(sample)


def _are_choices(rows: Sequence[Row]) -> bool:
    """Whether nearly all rows are MMLU's, without a header, or the contest's: a question, options and a letter.

    >>> _are_choices([{"1": "Capital of Peru?", "2": "Lima", "3": "Cusco", "4": "A"}])
    True
    """
    bare = _is_bare(rows[0])
    if not bare and not all(isinstance(rows[0].get(name), str) for name in ("instruction", "input", "output")):
        return False
    if bare and not all(re.fullmatch(r"\s*[A-J]\s*", text_or_empty(list(row.values())[-1])) for row in rows):
        return False
    return _share(rows, lambda row: bool(multiple_choice.parse_question("", row).letter)) > 0.9


def _is_bare(row: Row) -> bool:
    """Whether the columns of a table have no names but their numbers."""
    return list(row) == [str(number) for number in range(1, len(row) + 1)]


def _share(rows: Sequence[Row], holds: Any) -> float:
    """Share of the rows for which a condition holds; where it raises a DataError it does not."""

    def asked(row: Row) -> bool:
        try:
            return bool(holds(row))
        except DataError:
            return False

    return sum(map(asked, rows)) / len(rows)


def _asks_arithmetic(row: Row) -> bool:
    """Whether a conversation of one question asks one of the arithmetic task's."""
    try:
        return "conversations" in row and recognise(problem_and_solution(row)[0]) is not None
    except DataError:
        return False


def _labelled(sample: Sequence[Row], rows: Iterable[Row]) -> TaskSettings | None:
    """The settings of texts, or pairs of texts, with labels; None where the rows are none."""
    columns = _unnamed_texts(sample) if _is_bare(sample[0]) else _named_texts(sample)
    if not columns:
        return None
    known = columns.get("first") in ("question1", "#1 String") or _is_cola(sample)
    found = (
        Counter(text_or_empty(row.get(columns["label"])).strip() for row in rows) if "label" in columns else Counter()
    )
    found.pop("", None)
    labels = (
        {}
        if set(found) <= set(sentence_classification.DEFAULT_LABELS)
        else {label: label for label in sorted(found, key=_order)}
    )
    instruction = None if known else ABOUT[2 if "first" in columns else 1]
    return SentencesSettings(columns=columns, labels=labels, instruction=instruction)


def _order(label: str) -> tuple[bool, str]:
    """The positive label comes last."""
    return label.lower() in POSITIVE, label


def _is_cola(rows: Sequence[Row]) -> bool:
    """Whether the rows are CoLA's: source, label (not in the dev file), author's mark, sentence; without a header."""
    if not _is_bare(rows[0]) or len(rows[0]) not in (3, 4):
        return False
    labelled = len(rows[0]) == 4
    marks = all(_MARKS.fullmatch(row["3" if labelled else "2"]) for row in rows)
    return marks and (not labelled or all(row["2"].strip() in sentence_classification.DEFAULT_LABELS for row in rows))


def _named_texts(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of texts and labels, by their names; empty where there are none."""
    first = rows[0]
    plain = {name.strip().lower(): name for name in first}
    label = next((plain[name.lower()] for name in LABEL_COLUMNS if name.lower() in plain), None)
    pair = next(([plain[one.lower()] for one in two] for two in PAIRS if all(o.lower() in plain for o in two)), None)
    single = next((plain[name] for name in SINGLES if name in plain), None)
    known = pair is not None and set(pair) <= {*PAIRS[0], *PAIRS[1]}
    if label is not None and not known and not _is_label([text_or_empty(row.get(label)) for row in rows]):
        return {}
    texts = {"first": pair[0], "second": pair[1]} if pair else {"sentence": single} if single else {}
    if not texts or (label is None and not known):
        return {}
    return {**texts, "label": label} if label is not None else texts


def _unnamed_texts(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of texts and labels, by their numbers; empty where it is not clear which they are."""
    if _is_cola(rows):
        return {"sentence": "4", "label": "2"} if len(rows[0]) == 4 else {"sentence": "3"}
    values = {name: [row[name] for row in rows] for name in rows[0]}
    labels = [name for name, found in values.items() if _is_label(found)]
    binary = [
        name for name in labels if set(map(str.strip, values[name])) == set(sentence_classification.DEFAULT_LABELS)
    ]
    texts = [name for name, found in values.items() if _is_text(found)]
    if len(binary) != 1 and len(labels) != 1:
        return {}
    label = binary[0] if len(binary) == 1 else labels[0]
    if len(texts) == 1:
        return {"sentence": texts[0], "label": label}
    return {"first": texts[0], "second": texts[1], "label": label} if len(texts) == 2 else {}


def _is_label(values: Sequence[str]) -> bool:
    """Whether short values that repeat themselves stand in a column.

    >>> _is_label(["pos", "neg", "pos", "neg"]), _is_label(["a", "b", "c", "d"])
    (True, False)
    """
    found = {value.strip() for value in values if value.strip()}
    short = all(len(value) <= 40 and len(value.split()) <= 3 for value in found)
    return short and 2 <= len(found) <= min(_MAX_LABELS, len(values) // 2) and all(map(str.strip, values))


def _is_text(values: Sequence[str]) -> bool:
    return sum(map(len, values)) / len(values) >= 12 and len(set(values)) > len(values) / 2


def _instructions(rows: Sequence[Row]) -> TaskSettings | None:
    """The settings of instructions or conversations, judged by words in common where the answers are long."""
    shape = next(filter(None, map(row_formats.shape_of, rows)), None)
    columns = row_formats.suggested_columns(rows[0])
    if shape is None and not columns:
        return None
    plain = "prompt" in columns or (shape is not None and shape.field == "prompt")
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
    """Settings with columns by number, for each place at which the header may lack names or have too many."""
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    more = len(records[0]) - len(names)
    places = [0, *range(len(names), 0, -1)] if more >= 0 else range(len(names) + more, -1, -1)
    for place in places:
        lacking = [f"column {number}" for number in range(max(more, 0))]
        aligned = [*names[:place], *lacking, *names[place + max(-more, 0) :]]
        rows = [dict(zip(aligned, record, strict=True)) for record in records]
        settings = _settings(rows, rows) if all(aligned) and len(set(aligned)) == len(aligned) else None
        if isinstance(settings, RowSettings):
            yield _numbered(settings, aligned)


def _by_numbers(records: Sequence[Sequence[str]]) -> Iterator[RowSettings]:
    """Settings with columns by number, told from the cells alone."""
    rows = [{str(number): cell for number, cell in enumerate(record, 1)} for record in records]
    settings = _settings(rows, rows)
    if isinstance(settings, ChoiceSettings):
        options = multiple_choice.LETTERS[: len(rows[0]) - 2]
        yield _numbered(settings, ["question", *options, "answer"])
    elif isinstance(settings, RowSettings):
        yield settings


def _with_label(settings: RowSettings, bare: Sequence[RowSettings]) -> RowSettings:
    """Settings of texts whose label has no name in the header, with the column in which labels stand."""
    labels = [one.columns["label"] for one in bare if "label" in one.columns]
    if not isinstance(settings, SentencesSettings) or "label" in settings.columns or not labels:
        return settings
    return settings.model_copy(update={"columns": {**settings.columns, "label": labels[0]}})


def _numbered(settings: RowSettings, names: Sequence[str]) -> RowSettings:
    """The settings with the numbers of columns in the place of their names."""
    plain = {name.lower(): name for name in names}
    own = {field: plain[field.lower()] for field in MAPPABLE_FIELDS.get(settings.name, ()) if field.lower() in plain}
    columns = {field: str(names.index(name) + 1) for field, name in (settings.columns or own).items()}
    return settings.model_copy(update={"columns": columns})


def _usable(settings: RowSettings, records: Sequence[Sequence[str]]) -> float:
    """Share of the records that can be trained on, mapped as the settings say."""
    task = build_task(settings.model_copy(update={"columns": {}}))
    rows = [
        {field: record[int(number) - 1] for field, number in settings.columns.items()} for record in islice(records, 50)
    ]
    return _share(rows, lambda row: list(task.examples([("", row)], training=True)))


def _flow(settings: TaskSettings) -> str:
    """The settings that are not the defaults, as YAML in one line.

    >>> _flow(SentencesSettings(columns={"label": "1"}))
    "{name: sentences, columns: {label: '1'}}"
    """
    import yaml

    shown = {"name": settings.name, **settings.model_dump(exclude_defaults=True)}
    return str(
        yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    ).strip()


def _refuse(path: Path, rows: Sequence[Row]) -> TaskSettings:
    """Raises: DataError naming the columns of rows of no task, and what may be done with them."""
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
    key = next((name for known in REFERENCE_COLUMNS for name in fields if name.lower() == known), None)
    if "text" in fields and key is None:
        return f"articles are learnt, not asked: pretrain: {{corpus: {path}}} (see docs/how-to/a-base-of-your-own.md)"
    if _is_bare(rows[0]):
        return "say in a recipe which column holds what, such as task: {name: sentences, columns: {sentence: '2'}}"
    if key is None:
        close = row_formats.nearest_field(fields)
        return close or "say in a recipe what is asked: task: {name: custom, prompt: '{COLUMN}', answer: COLUMN}"
    texts = [name for name in fields if name != key and isinstance(rows[0].get(name), str) and name.lower() != "id"]
    question = texts[0] if texts else "COLUMN"
    return f"say in a recipe what is asked: task: {{name: custom, prompt: '{{{question}}}', answer: {key}}}"
