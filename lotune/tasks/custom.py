"""A task of one's own in a recipe alone: rows of any columns, a prompt with their names in it, an answer, a scorer.

task: {name: custom, prompt: "Translate: {source}", answer_column: target, scorer: rouge-l}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.rows import OnError, RowFile, closest_columns_hint, read_rows
from lotune.errors import DataError, SettingsError
from lotune.tasks.scorers import SCORES, aggregate, compile_pattern, reference_as_answer, score_text
from lotune.tasks.settings import CUSTOM_SCORERS, PromptSettings, one_of
from lotune.tasks.task import Example, Row, Score
from lotune.tasks.user_rows import label_word, text_or_empty, write_rows

_NAMES = re.compile(r"\{([^{}]+)\}")


class CustomSettings(PromptSettings):
    """What a task of one's own asks, and how it is judged."""

    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt", "labels")

    name: Literal["custom"] = "custom"
    """Name of the task."""
    prompt: str = "{question}"
    """What is asked, with the names of the file's columns in braces."""
    answer_column: str = "answer"
    """Column of the reference answer."""
    scorer: Annotated[str | None, one_of(CUSTOM_SCORERS)] = None
    """How to compare an answer with its reference: exact, contains, number, rouge-l, f1, letter, label or
    regex:PATTERN; null: exact."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Where the scorer is label: the word of each label, the positive one last."""

    @property
    def scorer_changes_targets(self) -> bool:
        """Whether the answers that are trained on are the words of labels."""
        return self.scorer == "label"

    @property
    def key_column(self) -> str:
        """The column of the answer."""
        return self.answer_column


@dataclass(frozen=True)
class CustomTask:
    """What the settings say: `prompt` with the names of columns in braces, `answer` the column of the key, a scorer.

    A row whose answer is missing or empty has no target and is unjudgeable.
    """

    settings: CustomSettings = field(default_factory=CustomSettings)
    name: str = "custom"
    min_new_tokens: int = 1

    def __post_init__(self) -> None:
        """Raises: SettingsError for a scorer that lacks its labels, or a pattern that is none."""
        if self.scorer.startswith("regex:"):
            compile_pattern(self.scorer.removeprefix("regex:"))
        if self.scorer == "label" and len(self.settings.labels) < 2:
            raise SettingsError("task.labels", f"{len(self.settings.labels)} labels", "two at least for scorer: label")

    @property
    def metric(self) -> str:
        """The mean of the scorer's score, or the accuracy."""
        return SCORES.get(self.scorer, "accuracy")

    @property
    def scorer(self) -> str:
        """How an answer is compared with the key."""
        return self.settings.scorer or "exact"

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """The scorer's score, where it gives one."""
        return {self.metric: self.metric} if self.scorer in SCORES else {}

    @property
    def max_new_tokens(self) -> int:
        """Longest answer in tokens: 256 unless the settings say otherwise."""
        return self.settings.max_new_tokens or 256

    @property
    def stop(self) -> tuple[str, ...]:
        """The template's tag of a next question ends an answer."""
        return self.settings.prompt_template.stop

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """The rows of a json, jsonl, csv, tsv or parquet file."""
        return read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes)

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write rows as they are (see `write_rows`)."""
        write_rows(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """An example a row.

        Raises: DataError for a row that lacks a column of the prompt, whose label is none, or that, with `training`,
        lacks the answer.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            key = text_or_empty(row.get(self.settings.answer_column))
            if training and not key.strip():
                near = closest_columns_hint([self.settings.answer_column], row)
                found = f"has no {self.settings.answer_column} to train on (it has {', '.join(row)}{near})"
                raise DataError(id, found, "an answer", "name its column in task.answer_column")
            word = label_word(id, key.strip(), self.settings.labels) if self.scorer == "label" else key
            target = word if training else reference_as_answer(self.scorer, word)
            yield Example(id, template.render(self._filled(id, row)), target, (word,) if word.strip() else ())

    def _filled(self, id: str, row: Row) -> str:
        names = _NAMES.findall(self.settings.prompt)
        missing = [name for name in names if row.get(name) is None]
        if missing:
            found = f"has no {', '.join(missing)} (it has {', '.join(row)}{closest_columns_hint(missing, row)})"
            raise DataError(
                id, found, "the columns that task.prompt names", "write the file's own names into task.prompt"
            )
        return _NAMES.sub(lambda match: str(row[match.group(1)]), self.settings.prompt)

    def judge(self, example: Example, text: str) -> Score:
        """The verdict of the settings' scorer; None without a key."""
        words = tuple(self.settings.labels.values())
        if not example.references:
            return replace(score_text(self.scorer, text, "", words), reference="", correct=None, scores={})
        return score_text(self.scorer, text, example.references[0], words)

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """The accuracy, 0 to 1, or the mean score, 0 to 100, and how many rows are `unjudgeable`.

        Raises: DataError where none can be judged.
        """
        return aggregate(self.scorer, judged)
