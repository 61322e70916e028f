"""Classification of sentences and sentence pairs: CoLA, QQP, MRPC, and a user's own tables.

The columns of these three files are recognised: QQP's and MRPC's by their headers, CoLA's four by having none (its dev
file has no label). For any other file `task.columns` maps columns to `sentence`, or to `first` and `second`, and to
`label`. Rows with `instruction`, `input` and `output` are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.rows import OnError, RowFile, read_rows, rows_on_disk
from lotune.data.templates import Template
from lotune.errors import DataError, SettingsError
from lotune.tasks.metrics import accuracy, balanced_accuracy, f1, matthews, num_without_reference
from lotune.tasks.settings import RowSettings, check_columns
from lotune.tasks.task import Example, Row, Score, Task
from lotune.tasks.user_rows import CHINESE, label_word, named_columns, text_or_empty

SENTENCE_FIELDS = ("sentence", "first", "second", "label", "instruction", "input", "output")
DEFAULT_LABELS = {"0": "0", "1": "1"}
"""Words by label for settings without labels; the last is the positive one."""
SINGLE_SENTENCE_PROMPT = "Is this sentence grammatically acceptable? Answer {labels}."
SENTENCE_PAIR_PROMPT = "Do these two sentences mean the same? Answer {labels}."
LAYOUTS: Sequence[tuple[tuple[str, ...], Mapping[str, str]]] = (
    (("question1", "question2"), {"first": "question1", "second": "question2", "label": "is_duplicate"}),
    (("#1 String", "#2 String"), {"first": "#1 String", "second": "#2 String", "label": "Quality"}),
    (("1", "2", "3", "4"), {"sentence": "4", "label": "2"}),
    (("1", "2", "3"), {"sentence": "3"}),
)
"""Columns of a known file, and the column of each field: QQP, MRPC, CoLA with and without labels."""


class SentencesSettings(RowSettings):
    """Labels and instruction of sentence classification."""

    prompt_fields: ClassVar[tuple[str, ...]] = ("instruction", "labels")

    name: Literal["sentences"] = "sentences"
    """Name of the task."""
    max_new_tokens: int = Field(8, ge=1)
    labels: dict[str, str] = Field(default_factory=dict)
    """The word of each label, the positive one last; {} takes the words of data.train, or 0 and 1."""
    instruction: str | None = None
    """Instruction for the sentences; {labels} stands for the words of the labels. null takes the task's own."""

    @property
    def unlisted_labels(self) -> str:
        """The field of the label if no labels are listed."""
        return "" if self.labels else "label"


@dataclass(frozen=True)
class SentenceClassificationTask(Task):
    """Classify a sentence or a sentence pair; the answer is the word of a label.

    A row without a label has no target and cannot be scored. A row with an unknown label is refused. Results are
    reported by the word of the label.
    """

    settings: SentencesSettings = field(default_factory=SentencesSettings)
    name: str = "sentences"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        """Raise SettingsError for a column that the task does not have, or for fewer than two words."""
        check_columns(self.settings, SENTENCE_FIELDS)
        if len(set(self.labels.values())) < 2:
            raise SettingsError("task.labels", f"{len(set(self.labels.values()))} words", "two different ones at least")

    @property
    def labels(self) -> Mapping[str, str]:
        """Words by label of the file."""
        return self.settings.labels or DEFAULT_LABELS

    @property
    def scorer(self) -> str:
        """Name of the only scorer, shown beside the results."""
        return "label"

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the rows of a table or of json, with their columns renamed to the task's fields."""
        file = read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes, columns=self.settings.columns)
        return replace(file, rows=rows_on_disk((id, dict(_with_task_fields(row))) for id, row in file.rows))

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield one example per row.

        Raises: DataError for a row without a sentence, with an unknown label or, with `training`, without a label.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            yield self._example(id, row, template, training)

    def _example(self, id: str, row: Row, template: Template, training: bool) -> Example:
        instruction, text, label = self.parse_row(id, row)
        word = label_word(id, label, self.labels)
        if training and not label:
            raise DataError(
                id, f"has no label to train on (it has {', '.join(row)})", "a label", named_columns("label")
            )
        return Example(id, template.render(instruction, text), word, (word,) if word else (), category=word)

    def parse_row(self, id: str, row: Row) -> tuple[str, str, str]:
        """Return instruction, text and label of a row. Raises: DataError if it has no sentence."""
        row = _with_task_fields(row)
        label, sentence, first, second = (
            text_or_empty(row.get(name)).strip()
            for name in ("label" if "label" in row else "output", "sentence", "first", "second")
        )
        # Rows that the exam's preparation step wrote carry their own instruction.
        if isinstance(row.get("instruction"), str) and isinstance(row.get("input"), str):
            return row["instruction"], row["input"], label
        if sentence:
            instruction = self.settings.instruction or SINGLE_SENTENCE_PROMPT
            return self._with_labels(instruction), sentence, label
        if first and second:
            text = f"Sentence 1: {first}\nSentence 2: {second}"
            instruction = self.settings.instruction or SENTENCE_PAIR_PROMPT
            return self._with_labels(instruction), text, label
        remedy = f"{named_columns('sentence', 'label')}, or first and second for a pair"
        raise DataError(id, f"has no sentence (it has {', '.join(row)})", "sentence, or first and second", remedy)

    def _with_labels(self, instruction: str) -> str:
        """Return the instruction with the words of the labels, each of them once."""
        return instruction.replace("{labels}", alternatives(dict.fromkeys(self.labels.values()), instruction))

    def num_options(self, example: Example) -> int | None:
        """Return the number of words that labels have."""
        return len(set(self.labels.values()))

    def judge(self, example: Example, text: str) -> Score:
        """Return the score: `correct` is whether the first label word in the answer is the reference.

        It is None without a reference.
        """
        label = extract_label(text, tuple(self.labels.values()))
        if not example.references:
            return Score(label, "", None)
        return Score(label, example.references[0], label == example.references[0])

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return `accuracy`, `balanced_accuracy`, `f1` of the last label, `matthews` and `unjudgeable`.

        All are 0 to 1, except `matthews`, -1 to 1, and `unjudgeable`, the number of rows without a reference.

        Raises: DataError if no row has a reference.
        """
        # GLUE reports Matthews' correlation for CoLA, and F1 of the positive label for QQP and MRPC.
        return {
            "accuracy": accuracy(judged), "balanced_accuracy": balanced_accuracy(judged),
            "f1": f1(judged, list(self.labels.values())[-1]), "matthews": matthews(judged),
            "unjudgeable": float(num_without_reference(judged)),
        }  # fmt: skip


def alternatives(words: Iterable[str], instruction: str) -> str:
    """Return words as alternatives, in the language of the instruction.

    >>> alternatives(["no", "yes"], "Answer {labels}."), alternatives(["差", "中", "好"], "请回答{labels}。")
    ('no or yes', '差、中或好')
    """
    *first, last = words
    return "、".join(first) + "或" + last if CHINESE.search(instruction) else " or ".join((*first, last))


def extract_label(text: str, words: Sequence[str]) -> str | None:
    """Return the word that comes first in a text and stands alone, in any case; None if there is none.

    >>> extract_label("The answer is 1.", ("0", "1")), extract_label("10", ("0", "1"))
    ('1', None)
    >>> extract_label("Yes!", ("no", "yes"))
    'yes'
    """
    # Of two words with the same start the longer one counts: "not" and "not entailment". \b would not do, as it sees no
    # boundary between a Chinese character and a digit.
    matches = [
        (match.start(), -len(word), word)
        for word in words
        if (match := re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text, re.IGNORECASE))
    ]
    return min(matches)[2] if matches else None


def _with_task_fields(row: Row) -> Row:
    """Return a row of a known file with the task's fields as its columns, any other row unchanged."""
    if any(name in row for name in ("sentence", "first")):
        return row
    for layout, column_by_field in LAYOUTS:
        # Numbers are no names: a table without a header matches only if it has exactly these columns.
        exact = layout[0] != "1" or list(row) == list(layout)
        if exact and all(name in row for name in layout):
            return {field: row[column] for field, column in column_by_field.items() if column in row}
    return row
