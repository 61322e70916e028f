"""What a task is: it reads rows, asks, and judges. One row in TASKS (see `lotune.tasks.registry`) makes it known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.chat_template import ChatTemplate
from lotune.data.examples import Example
from lotune.data.rows import OnError, RowFile, read_rows, write_rows
from lotune.tasks.settings import TaskSettings

__all__ = ["Conversational", "Example", "Generating", "MultipleChoice", "Row", "Score", "SeveralRules", "Task"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """A verdict on one answer. `correct` is None where the key cannot be judged; `scores` are per-example figures."""

    extracted: str | None
    reference: str
    correct: bool | None
    scores: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A task: read rows, ask, judge.

    Implementations are frozen dataclasses that derive from it and hold their settings. They define `name`, `metric`,
    `examples`, `judge` and `metrics`; the rest has defaults. Further abilities are protocols of their own:
    `Conversational`, `Generating`, `MultipleChoice`, `SeveralRules`.
    """

    settings: TaskSettings

    @property
    def name(self) -> str:
        """Its name in TASKS."""

    @property
    def metric(self) -> str:
        """Name of the headline metric, a key of what `metrics` returns."""

    @property
    def scorer(self) -> str:
        """Name of the judging rule; empty for a task that has only one."""
        return self.settings.judging_rule

    @property
    def max_new_tokens(self) -> int:
        """Longest answer in tokens."""
        return self.settings.max_new_tokens

    @property
    def min_new_tokens(self) -> int:
        """Shortest answer in tokens."""
        return 1

    @property
    def is_contest_task(self) -> bool:
        """Whether the contest's published scores are those of this task."""
        return False

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer and are cut off: by default, the template's tag of the next question."""
        return self.settings.prompt_template.stop

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """For each metric that is a mean of a per-example score: the name of that score. The others are accuracies."""
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
        """Yield examples of (row id, row) pairs. With `training`, their targets are what is trained on.

        Raises: DataError for a row without the task's fields.
        """

    def judge(self, example: Example, text: str) -> Score:
        """Return the score of a generated answer."""

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return figures over all scores, by name: accuracies are 0 to 1, means of a per-example score 0 to 100."""


@runtime_checkable
class Conversational(Protocol):
    """A task whose rows are conversations, which the chat template of a tokeniser can render."""

    def with_chat_template(self, chat_template: ChatTemplate) -> Task:
        """Return the task with prompts in that chat template."""


@runtime_checkable
class Generating(Protocol):
    """A task that can generate rows, in its file layout; the same rows for the same seed."""

    def generate_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generate rows to test on."""

    def generate_training_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generate rows to train on, with other names than `generate_rows` gives where names are drawn."""


@runtime_checkable
class MultipleChoice(Protocol):
    """A task that can have the model choose by likelihood among given answers, instead of writing one."""

    @property
    def by_likelihood(self) -> bool:
        """Whether its settings want that."""

    def continuations(self, example: Example) -> Sequence[str]:
        """The texts to compare, one at least."""

    def normalise(self, continuation: str, log_probability: float) -> float:
        """What is compared: the log-probability of a continuation, or that by its length."""

    def answer_text(self, example: Example, place: int) -> str:
        """The answer to be judged where the continuation at this place is the likeliest."""


@runtime_checkable
class SeveralRules(Protocol):
    """A task whose answers can be judged by one rule or another."""

    def verdicts(self, example: Example, text: str) -> Mapping[str, bool | None]:
        """Return the verdict on an answer under each rule; None where the key cannot be judged."""
