"""A task of one's own in a recipe alone: rows of any columns, a prompt with their names in it, an answer, a scorer.

task: {name: custom, prompt: "Translate: {source}", answer_column: target, scorer: rouge-l}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lotune.data.rows import closest_columns_hint
from lotune.errors import DataError, SettingsError
from lotune.tasks.scorers import TextScored, compile_pattern, reference_as_answer, score_text
from lotune.tasks.settings import CUSTOM_SCORERS, PromptSettings, one_of
from lotune.tasks.task import Example, Row, Score
from lotune.tasks.user_rows import label_word, text_or_empty

_NAMES = re.compile(r"\{([^{}]+)\}")


class CustomSettings(PromptSettings):
    """What a task of one's own asks, and how it is judged."""

    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt", "labels")

    name: Literal["custom"] = "custom"
    """Name of the task."""
    max_new_tokens: int = Field(256, ge=1)
    prompt: str = "{question}"
    """What is asked, with the names of the file's columns in braces."""
    answer_column: str = "answer"
    """Column of the reference answer."""
    scorer: Annotated[str, one_of(CUSTOM_SCORERS)] = "exact"
    """How to compare an answer with its reference: exact, contains, number, rouge-l, f1, letter, label or
    regex:PATTERN."""
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
class CustomTask(TextScored):
    """What the settings say: `prompt` with the names of columns in braces, `answer` the column of the key, a scorer.

    A row whose answer is missing or empty has no target and is unjudgeable.
    """

    settings: CustomSettings = field(default_factory=CustomSettings)
    name: str = "custom"

    def __post_init__(self) -> None:
        """Raises: SettingsError for a scorer that lacks its labels, or a pattern that is none."""
        if self.scorer.startswith("regex:"):
            compile_pattern(self.scorer.removeprefix("regex:"))
        if self.scorer == "label" and len(self.settings.labels) < 2:
            raise SettingsError("task.labels", f"{len(self.settings.labels)} labels", "two at least for scorer: label")

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
