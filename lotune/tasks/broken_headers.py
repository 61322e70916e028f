"""A column map for a table whose header has more or fewer cells than its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from lotune.data.tables import HeaderError
from lotune.errors import DataError
from lotune.tasks import multiple_choice, sentence_classification
from lotune.tasks.candidates import fraction
from lotune.tasks.instructions import row_formats
from lotune.tasks.multiple_choice import ChoiceSettings
from lotune.tasks.registry import build_task
from lotune.tasks.sentence_classification import SentencesSettings
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Row

Recognise = Callable[[Sequence[Row]], TaskSettings | None]
"""Returns the settings of the task of rows, or None."""
MAPPABLE_FIELDS: Mapping[str, Sequence[str]] = {
    "arithmetic": ("problem", "solution"),
    "choice": multiple_choice.CHOICE_FIELDS,
    "sentences": sentence_classification.SENTENCE_FIELDS,
    "instructions": row_formats.INSTRUCTION_FIELDS,
}
"""Fields of each task's rows to which columns can be mapped."""


def with_map(error: HeaderError, recognise: Recognise) -> DataError:
    """Return the error with a map from fields to column numbers as its remedy, if such a map gives rows of a task."""
    by_number = list(_by_numbers(error.records, recognise))
    by_name = [_with_label(settings, by_number) for settings in _by_names(error.header, error.records, recognise)]
    # Of equally good candidates `max` takes the first: names of a header come before guesses from cells.
    candidates = [*by_name, *by_number] if error.headed else [*by_number, *by_name]
    best = max(candidates, key=lambda settings: _fraction_usable(settings, error.records), default=None)
    if best is None or not _fraction_usable(best, error.records):
        return error
    shown = ", ".join(f"{number} {cell[:24]!r}" for number, cell in enumerate(error.records[0], 1))
    remedy = f"name each column, or give the map in the recipe: task: {_flow(best)} (the columns: {shown})"
    return DataError(error.where, error.found, error.expected, remedy)


def _by_names(header: Sequence[str], records: Sequence[Sequence[str]], recognise: Recognise) -> Iterator[RowSettings]:
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
        settings = recognise(rows) if all(aligned) and len(set(aligned)) == len(aligned) else None
        if isinstance(settings, RowSettings):
            yield _with_column_numbers(settings, aligned)


def _by_numbers(records: Sequence[Sequence[str]], recognise: Recognise) -> Iterator[RowSettings]:
    """Yield settings with column numbers, recognised from the cells alone."""
    rows = [{str(number): cell for number, cell in enumerate(record, 1)} for record in records]
    settings = recognise(rows)
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
    return fraction(rows, lambda row: list(task.examples([("", row)], training=True)))


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
