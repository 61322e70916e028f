"""Sentences and pairs of sentences, labelled: CoLA, QQP, MRPC, and one's own tables.

The columns of the well-known files are found by themselves: CoLA's four without a header (its dev file lacks the
label), QQP's and MRPC's by their headers. Of any other file `task.columns` says which column is `sentence`, or `first`
and `second`, and which is `label`. Rows {"instruction", "input", "output"} are read, too.
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
from lotune.tasks.user_rows import label_word, named_columns, text_or_empty

SENTENCE_FIELDS = ("sentence", "first", "second", "label", "instruction", "input", "output")
DEFAULT_LABELS = {"0": "0", "1": "1"}
"""Each label and the word that stands for it, where the settings name none; the last is the positive one."""
SINGLE_SENTENCE_PROMPT = "Is this sentence grammatically acceptable? Answer {labels}."
SENTENCE_PAIR_PROMPT = "Do these two sentences mean the same? Answer {labels}."
LAYOUTS: Sequence[tuple[tuple[str, ...], Mapping[str, str]]] = (
    (("question1", "question2"), {"first": "question1", "second": "question2", "label": "is_duplicate"}),
    (("#1 String", "#2 String"), {"first": "#1 String", "second": "#2 String", "label": "Quality"}),
    (("1", "2", "3", "4"), {"sentence": "4", "label": "2"}),
    (("1", "2", "3"), {"sentence": "3"}),
)
"""Columns by which a file is known, and what they hold: QQP, MRPC, CoLA with and without labels."""


class SentencesSettings(RowSettings):
    """How sentences are asked, and their labels."""

    prompt_fields: ClassVar[tuple[str, ...]] = ("instruction", "labels")

    name: Literal["sentences"] = "sentences"
    """Name of the task."""
    max_new_tokens: int = Field(8, ge=1)
    labels: dict[str, str] = Field(default_factory=dict)
    """The word of each label, the positive one last; {} means 0, 1."""
    instruction: str | None = None
    """What is asked of the sentences; {labels} stands for the words. null takes the task's own."""


@dataclass(frozen=True)
class SentenceClassificationTask(Task):
    """A label for a sentence or for a pair, named by its word.

    A row without a label has no target and is unjudgeable; one with a label that is none is refused. The label's word
    is the kind that a row is reported under.
    """

    settings: SentencesSettings = field(default_factory=SentencesSettings)
    name: str = "sentences"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        """Raises: SettingsError for a column that the task does not have, or fewer than two labels."""
        check_columns(self.settings, SENTENCE_FIELDS)
        if len(set(self.labels.values())) < 2:
            raise SettingsError("task.labels", f"{len(set(self.labels.values()))} words", "two different ones at least")

    @property
    def labels(self) -> Mapping[str, str]:
        """Each label of the file, and the word that stands for it."""
        return self.settings.labels or DEFAULT_LABELS

    @property
    def scorer(self) -> str:
        """How an answer is compared with the key."""
        return "label"

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """The rows of a table or of json, their columns named as the task wants them."""
        file = read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes, columns=self.settings.columns)
        return replace(file, rows=rows_on_disk((id, dict(_named(row))) for id, row in file.rows))

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """An example a row.

        Raises: DataError for a row without a sentence, with a label that is none, or, with `training`, without one.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            yield self._example(id, row, template, training)

    def _example(self, id: str, row: Row, template: Template, training: bool) -> Example:
        instruction, text, label = self._asked(id, row)
        word = label_word(id, label, self.labels)
        if training and not label:
            raise DataError(
                id, f"has no label to train on (it has {', '.join(row)})", "a label", named_columns("label")
            )
        return Example(id, template.render(instruction, text), word, (word,) if word else (), category=word)

    def _asked(self, id: str, row: Row) -> tuple[str, str, str]:
        """Instruction, text and label of a row. Raises: DataError where it has no sentence."""
        row = _named(row)
        words = " or ".join(dict.fromkeys(self.labels.values()))
        label, sentence, first, second = (
            text_or_empty(row.get(name)).strip()
            for name in ("label" if "label" in row else "output", "sentence", "first", "second")
        )
        if isinstance(row.get("instruction"), str) and isinstance(row.get("input"), str):
            return row["instruction"], row["input"], label
        if sentence:
            return (self.settings.instruction or SINGLE_SENTENCE_PROMPT).replace("{labels}", words), sentence, label
        if first and second:
            text = f"Sentence 1: {first}\nSentence 2: {second}"
            return (self.settings.instruction or SENTENCE_PAIR_PROMPT).replace("{labels}", words), text, label
        remedy = f"{named_columns('sentence', 'label')}, or first and second for a pair"
        raise DataError(id, f"has no sentence (it has {', '.join(row)})", "sentence, or first and second", remedy)

    def judge(self, example: Example, text: str) -> Score:
        """Whether the first label word that stands alone in the answer is the key's; None without a key."""
        read = extract_label(text, tuple(self.labels.values()))
        if not example.references:
            return Score(read, "", None)
        return Score(read, example.references[0], read == example.references[0])

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """`accuracy`, `balanced_accuracy` and `f1` of the last label, 0 to 1; `matthews`, -1 to 1; `unjudgeable` rows.

        Raises: DataError where no row has a key.
        """
        return {
            "accuracy": accuracy(judged), "balanced_accuracy": balanced_accuracy(judged),
            "f1": f1(judged, list(self.labels.values())[-1]), "matthews": matthews(judged),
            "unjudgeable": float(num_without_reference(judged)),
        }  # fmt: skip


def extract_label(text: str, words: Sequence[str]) -> str | None:
    """The first of the words that stands alone in a text, whatever its case; None where there is none.

    >>> extract_label("The answer is 1.", ("0", "1")), extract_label("10", ("0", "1"))
    ('1', None)
    >>> extract_label("Yes!", ("no", "yes"))
    'yes'
    """
    found = [
        (match.start(), -len(word), word)
        for word in words
        if (match := re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text, re.IGNORECASE))
    ]
    return min(found)[2] if found else None


def _named(row: Row) -> Row:
    """A row with the task's names beside its own, where its columns are those of a known file."""
    if any(name in row for name in ("sentence", "first")):
        return row
    for known, names in LAYOUTS:
        exact = known[0] != "1" or list(row) == list(known)
        if exact and all(name in row for name in known):
            return {name: row[column] for name, column in names.items() if column in row}
    return row
