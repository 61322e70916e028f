"""What a task is: it reads rows, asks, and judges. One row in TASKS (see `lotune.tasks.registry`) makes it known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lotune.data.examples import Example

__all__ = ["Example", "Judged", "Row", "Task"]

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

    name: str
    metric: str
    """Name of the headline metric, a key of what `metrics` returns."""
    max_new_tokens: int
    min_new_tokens: int
    stop: tuple[str, ...]
    """Texts that end an answer (they are cut off)."""

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterable[Example]:
        """Examples from (row id, row) pairs. With `training`, targets carry the written working.

        Raises: DataError for a row without the task's fields.
        """

    def generate(self, rows: int, seed: int) -> list[Row]:
        """Rows of the task's own generator, in its file layout; the same for the same seed.

        Raises: SettingsError where the task has no generator.
        """

    def judge(self, example: Example, text: str) -> Judged:
        """The verdict on a generated answer."""

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Figures over all verdicts, by name; those of `retained` are 0 to 100, accuracies 0 to 1."""
