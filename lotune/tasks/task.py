"""The protocol of a task: it reads rows, renders prompts and scores answers.

A row of TASKS (see `lotune.tasks.registry`) makes a task available to recipes and to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.chat_template import ChatTemplate
from lotune.data.examples import Example
from lotune.data.rows import OnError, RowFile, read_rows, write_rows
from lotune.tasks.settings import TaskSettings

# `Example` is exported again: every task module needs it beside `Row` and `Score`.
__all__ = [
    "Conversational",
    "Example",
    "Generating",
    "Labelling",
    "MultipleChoice",
    "Row",
    "Score",
    "SeveralRules",
    "Task",
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """The score of one answer.

    `correct` is None if the row has no reference that the scorer can use. `scores` holds per-example scores: 0 to 100,
    or in the unit of `lotune.tasks.metrics`.
    """

    extracted: str | None
    reference: str
    correct: bool | None
    scores: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A task: read rows, render prompts, score answers.

    Implementations are frozen dataclasses that derive from it and hold their settings. They define `name`, `metric`,
    `examples`, `judge` and `metrics`; the rest has defaults. Further abilities are protocols of their own:
    `Conversational`, `Generating`, `MultipleChoice`, `SeveralRules`.
    """

    settings: TaskSettings

    @property
    def name(self) -> str:
        """Name of the task in TASKS."""

    @property
    def metric(self) -> str:
        """Name of the headline metric, a key of what `metrics` returns."""

    @property
    def scorer(self) -> str:
        """Name of the scorer; empty for a task that has only one."""
        return self.settings.scorer_name

    @property
    def max_new_tokens(self) -> int:
        """Maximum length of an answer in tokens."""
        return self.settings.max_new_tokens

    @property
    def min_new_tokens(self) -> int:
        """Minimum length of an answer in tokens."""
        # Some base models emit end-of-text at once and would score near zero. Contestants set the same minimum.
        return 1

    @property
    def chooses_by_likelihood(self) -> bool:
        """Whether the model ranks given answers by likelihood (see `MultipleChoice`) instead of generating one."""
        return self.settings.chooses_by_likelihood

    @property
    def scores_references(self) -> bool:
        """Whether the metric is how likely the model finds the references, rather than a comparison of its answers."""
        return False

    @property
    def generates_answers(self) -> bool:
        """Whether the model answers prompts; otherwise its metric needs the references alone (`scores_references`)."""
        return True

    @property
    def is_contest_task(self) -> bool:
        """Whether the contest's published scores are those of this task."""
        return False

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings, which are cut off the answer: by default, the template's tag of the next question."""
        return self.settings.prompt_template.stop

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """The score behind each metric that is the mean of a per-example score. The other metrics are accuracies."""
        return {}

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the rows of a file in one of the task's layouts.

        Raises: DataError if it cannot be read.
        """
        return read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes)

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write rows in a layout that `read` understands."""
        write_rows(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterable[Example]:
        """Yield examples of (row id, row) pairs. With `training`, their targets are training targets.

        Raises: DataError for a row without the task's fields.
        """

    def num_options(self, example: Example) -> int | None:
        """Return the number of answers that a row chooses from; None if the answer is a free text."""
        return None

    def judge(self, example: Example, text: str) -> Score:
        """Return the score of a generated answer."""

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return metrics over all scores, by name: accuracies are 0 to 1, means are in the unit of their score."""


# `runtime_checkable` lets a verb test for an ability with isinstance, without the name of a task.
@runtime_checkable
class Conversational(Protocol):
    """A task whose rows are conversations, which the chat template of a tokeniser can render."""

    def with_chat_template(self, chat_template: ChatTemplate) -> Task:
        """Return the task with prompts in that chat template."""


@runtime_checkable
class Generating(Protocol):
    """A task that can generate rows in its file layout. The same seed gives the same rows."""

    def generate_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generate test rows."""

    def generate_training_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generate training rows. Their invented names never occur in the rows of `generate_rows`."""


@runtime_checkable
class OtherForms(Protocol):
    """A task whose generated rows can be written in further forms, beside its own and conversations."""

    forms: ClassVar[Mapping[str, Callable[[Row], Iterable[Row]]]]
    """Rows of a form that a row becomes, by the name of the form."""


@runtime_checkable
class Labelling(Protocol):
    """A task that gives texts a label of a fixed set."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Words by label of the file."""

    def parse_row(self, id: str, row: Row) -> tuple[str, str, str]:
        """Return instruction, text and label of a row; the label is empty if the row has none."""


@runtime_checkable
class MultipleChoice(Protocol):
    """A task that can rank given answers by likelihood instead of generating one."""

    def continuations(self, example: Example) -> Sequence[str]:
        """Return the continuations to compare, at least one."""

    def normalise(self, continuation: str, log_probability: float) -> float:
        """Return the value to compare: the log-probability in nats, or the same divided by a length."""

    def answer_text(self, example: Example, index: int) -> str:
        """Return the answer to score if the continuation at this index is the most likely."""


@runtime_checkable
class SeveralRules(Protocol):
    """A task whose answers can be scored by several rules."""

    def verdicts(self, example: Example, text: str) -> Mapping[str, bool | None]:
        """Return whether an answer is correct under each rule; None if the reference cannot be used."""
