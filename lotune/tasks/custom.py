"""A task that a recipe defines without code: a prompt with column names in braces, an answer column, a scorer.

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

# A column name in braces; "{}" and nested braces are left as they are.
_NAMES = re.compile(r"\{([^{}]+)\}")


def prompt_columns(prompt: str) -> list[str]:
    """Return the names of columns in a prompt, each once.

    >>> prompt_columns("{text} {} {question}")
    ['text', 'question']
    """
    return list(dict.fromkeys(_NAMES.findall(prompt)))


class CustomSettings(PromptSettings):
    """Prompt, answer column and scorer of a task of the user's own."""

    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt", "labels")

    name: Literal["custom"] = "custom"
    """Name of the task."""
    max_new_tokens: int = Field(256, ge=1)
    prompt: str = "{question}"
    """Text of the prompt, with names of the file's columns in braces."""
    answer_column: str = "answer"
    """Column of the reference answer."""
    scorer: Annotated[str, one_of(CUSTOM_SCORERS)] = "exact"
    """How to compare an answer with its reference: exact, contains, number, rouge-l, f1, letter, label,
    significant:DIGITS, decimals:DIGITS, relative:TOLERANCE, regex:PATTERN, or bits-per-byte, the likelihood of the
    reference."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Where the scorer is label: the word of each label, the positive one last; {} takes the labels of data.train."""

    @property
    def scorer_changes_targets(self) -> bool:
        """Whether the training targets are the words of labels."""
        return self.scorer == "label"

    @property
    def unlisted_labels(self) -> str:
        """The answer column if the scorer is label and no labels are listed."""
        return self.answer_column if self.scorer == "label" and not self.labels else ""

    @property
    def key_column(self) -> str:
        """The column of the reference answer."""
        return self.answer_column


@dataclass(frozen=True)
class CustomTask(TextScored):
    """A task that consists of its settings: a prompt with column names in braces, an answer column and a scorer.

    A row whose answer is missing or empty has no target and cannot be scored.
    """

    settings: CustomSettings = field(default_factory=CustomSettings)
    name: str = "custom"

    def __post_init__(self) -> None:
        """Raise SettingsError for an invalid pattern, or for the scorer `label` with a single label."""
        if self.scorer.startswith("regex:"):
            compile_pattern(self.scorer.removeprefix("regex:"))
        if self.scorer == "label" and len(self.settings.labels) == 1:
            raise SettingsError("task.labels", f"{len(self.settings.labels)} labels", "two at least for scorer: label")

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield one example per row.

        Raises: DataError for a row that lacks a column of the prompt, has an unknown label or, with `training`, has no
        answer.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            reference = text_or_empty(row.get(self.settings.answer_column))
            if training and not reference.strip():
                near = closest_columns_hint([self.settings.answer_column], row)
                message = f"has no {self.settings.answer_column} to train on (it has {', '.join(row)}{near})"
                raise DataError(id, message, "an answer", "name its column in task.answer_column")
            if self.scorer == "label":
                reference = label_word(id, reference.strip(), self.settings.labels)
            # A few-shot example shows the target, so outside training it is an answer that the scorer accepts.
            target = reference if training else reference_as_answer(self.scorer, reference)
            references = (reference,) if reference.strip() else ()
            yield Example(id, template.render(self._fill_prompt(id, row)), target, references)

    def _fill_prompt(self, id: str, row: Row) -> str:
        missing = [name for name in prompt_columns(self.settings.prompt) if row.get(name) is None]
        if missing:
            message = f"has no {', '.join(missing)} (it has {', '.join(row)}{closest_columns_hint(missing, row)})"
            raise DataError(
                id, message, "the columns that task.prompt names", "write the file's own names into task.prompt"
            )
        # str.format would fail on other braces in the prompt, such as JSON.
        return _NAMES.sub(lambda match: str(row[match.group(1)]), self.settings.prompt)

    def num_options(self, example: Example) -> int | None:
        """Return the number of words that labels have, under the scorer `label`."""
        return len(set(self.settings.labels.values())) if self.scorer == "label" else None

    def judge(self, example: Example, text: str) -> Score:
        """Return the score under the settings' scorer; `correct` is None without a reference."""
        labels = tuple(self.settings.labels.values())
        if not example.references:
            return replace(score_text(self.scorer, text, "", labels), reference="", correct=None, scores={})
        return score_text(self.scorer, text, example.references[0], labels)
