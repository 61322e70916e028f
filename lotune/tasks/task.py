"""What a task is: it reads rows, asks, and judges. One row in TASKS (see `lotune.tasks.registry`) makes it known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lotune.data.bounded import MOST_ROW_BYTES
from lotune.data.examples import Example
from lotune.data.rows import OnError, RowFile

__all__ = ["Choosing", "Example", "Judged", "Row", "SeveralRules", "Task"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """A verdict on one answer. `right` is None where the key cannot be judged; `scores` are per-example figures."""

    read: str | None
    key: str
    right: bool | None
    scores: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A task: read rows, ask, judge. Implementations are frozen dataclasses holding their settings."""

    @property
    def name(self) -> str:
        """Its name in TASKS."""

    @property
    def metric(self) -> str:
        """Name of the headline metric, a key of what `metrics` returns."""

    @property
    def rule(self) -> str:
        """Name of the judging rule, empty where the task has but one."""

    @property
    def max_new_tokens(self) -> int:
        """Longest answer in tokens."""

    @property
    def min_new_tokens(self) -> int:
        """Shortest answer in tokens."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer; they are cut off."""

    @property
    def score_of(self) -> Mapping[str, str]:
        """For each metric that is a mean of a per-example score: the name of that score. The others are accuracies."""

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MOST_ROW_BYTES) -> RowFile:
        """The rows of a file in one of the task's layouts.

        Raises: DataError where it cannot be read.
        """

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write rows in the task's layout, which `read` gives back."""

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterable[Example]:
        """Examples from (row id, row) pairs. With `training`, targets carry the written working.

        Raises: DataError for a row without the task's fields.
        """

    def generate(self, rows: int, seed: int) -> list[Row]:
        """Rows of the task's own generator, in its file layout; the same for the same seed.

        Raises: SettingsError where the task has no generator.
        """

    def practice(self, rows: int, seed: int) -> Iterable[Row]:
        """Generated rows to train on, with other names than `generate` gives where names are drawn."""

    def stream(self, rows: int, seed: int) -> Iterable[Row]:
        """The same rows one at a time."""

    def judge(self, example: Example, text: str) -> Judged:
        """The verdict on a generated answer."""

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Figures over all verdicts, by name; those of `retained` are 0 to 100, accuracies 0 to 1."""


@runtime_checkable
class Choosing(Protocol):
    """A task that can have the model choose by likelihood among given answers, instead of writing one."""

    @property
    def chooses(self) -> bool:
        """Whether its settings want that."""

    def continuations(self, example: Example) -> Sequence[str]:
        """The texts to compare, one at least."""

    def weigh(self, continuation: str, log_probability: float) -> float:
        """What is compared: the log-probability of a continuation, or that by its length."""

    def chosen(self, example: Example, place: int) -> str:
        """The answer to be judged where the continuation at this place is the likeliest."""


@runtime_checkable
class SeveralRules(Protocol):
    """A task whose answers can be judged by one rule or another."""

    def verdicts(self, example: Example, text: str) -> Mapping[str, bool | None]:
        """Return the verdict on an answer under each rule; None where the key cannot be judged."""
