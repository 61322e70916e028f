"""A task of one's own in a recipe alone: rows of any columns, a prompt with their names in it, an answer, a judge.

task: {name: custom, prompt: "Translate: {source}", answer: target, judge: rouge-l}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lotune.data.bounded import MOST_ROW_BYTES
from lotune.data.rows import OnError, RowFile, nearest_names, read_rows
from lotune.errors import DataError, SettingsError
from lotune.tasks.judges import SCORES, compiled, figures, in_form, judge_text
from lotune.tasks.own_rows import filled, no_generator, word_of, write_rows
from lotune.tasks.settings import CUSTOM_JUDGES, TaskSettings, check_judge
from lotune.tasks.task import Example, Judged, Row

_NAMES = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class CustomTask:
    """What the settings say: `prompt` with the names of columns in braces, `answer` the column of the key, a judge.

    A row whose answer is missing or empty has no target and is unjudgeable.
    """

    settings: TaskSettings = field(default_factory=lambda: TaskSettings(name="custom"))
    name: str = "custom"
    min_new_tokens: int = 1

    def __post_init__(self) -> None:
        """Raises: SettingsError for a judge that does not exist or lacks its labels, or columns that are renamed."""
        check_judge(self.settings, CUSTOM_JUDGES)
        if self.rule.startswith("regex:"):
            compiled(self.rule.removeprefix("regex:"))
        if self.settings.columns:
            found = f"{', '.join(self.settings.columns)} is no field of custom"
            raise SettingsError("task.columns", found, remedy="write the file's own names into task.prompt")
        if self.rule == "label" and len(self.settings.labels) < 2:
            raise SettingsError("task.labels", f"{len(self.settings.labels)} labels", "two at least for judge: label")

    @property
    def metric(self) -> str:
        """The mean of the judge's score, or the accuracy."""
        return SCORES.get(self.rule, "accuracy")

    @property
    def rule(self) -> str:
        """How an answer is compared with the key."""
        return self.settings.judge or "exact"

    @property
    def score_of(self) -> Mapping[str, str]:
        """The judge's score, where it gives one."""
        return {self.metric: self.metric} if self.rule in SCORES else {}

    @property
    def max_new_tokens(self) -> int:
        """Longest answer in tokens: 256 unless the settings say otherwise."""
        return self.settings.max_new_tokens or 256

    @property
    def stop(self) -> tuple[str, ...]:
        """The template's tag of a next question ends an answer."""
        return self.settings.prompt_template.stop

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MOST_ROW_BYTES) -> RowFile:
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
            key = filled(row.get(self.settings.answer))
            if training and not key.strip():
                near = nearest_names([self.settings.answer], row)
                found = f"has no {self.settings.answer} to train on (it has {', '.join(row)}{near})"
                raise DataError(id, found, "an answer", "name its column in task.answer")
            word = word_of(id, key.strip(), self.settings.labels) if self.rule == "label" else key
            target = word if training else in_form(self.rule, word)
            yield Example(id, template.render(self._filled(id, row)), target, (word,) if word.strip() else ())

    def _filled(self, id: str, row: Row) -> str:
        names = _NAMES.findall(self.settings.prompt)
        missing = [name for name in names if row.get(name) is None]
        if missing:
            found = f"has no {', '.join(missing)} (it has {', '.join(row)}{nearest_names(missing, row)})"
            raise DataError(
                id, found, "the columns that task.prompt names", "write the file's own names into task.prompt"
            )
        return _NAMES.sub(lambda match: str(row[match.group(1)]), self.settings.prompt)

    def generate(self, rows: int, seed: int) -> list[Row]:
        """Raises: SettingsError, as such rows are one's own."""
        no_generator(self.name)

    def practice(self, rows: int, seed: int) -> Iterable[Row]:
        """Raises: as `generate`."""
        no_generator(self.name)

    def stream(self, rows: int, seed: int) -> Iterable[Row]:
        """Raises: as `generate`."""
        no_generator(self.name)

    def judge(self, example: Example, text: str) -> Judged:
        """The verdict of the settings' judge; None without a key."""
        words = tuple(self.settings.labels.values())
        if not example.answers:
            return replace(judge_text(self.rule, text, "", words), key="", right=None, scores={})
        return judge_text(self.rule, text, example.answers[0], words)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The accuracy, 0 to 1, or the mean score, 0 to 100, and how many rows are `unjudgeable`.

        Raises: DataError where none can be judged.
        """
        return figures(self.rule, judged)
