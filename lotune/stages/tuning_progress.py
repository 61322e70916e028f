"""What a tuning has done so far: its validated checkpoints, and whether it was decided to end early."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lotune.evaluate.early_stopping import ValidationPoint
from lotune.evaluate.predict import read_predictions
from lotune.stages.validate import CheckpointResult
from lotune.stages.validation_rows import ValidationRows
from lotune.tasks.metrics import goodness
from lotune.tasks.task import Task


@dataclass
class TuningProgress:
    """The progress of a tuning; a saved state holds it as notes, so that a resumed tuning ends as it was decided."""

    done: int
    """Steps done."""
    results: list[CheckpointResult]
    started: float
    """When it would have started, had it never been interrupted, by the monotonic clock."""
    decided_at: int | None = None
    """The step after which it was decided to end early."""
    reason: str = ""

    @classmethod
    def resumed(cls, done: int, notes: Mapping[str, Any]) -> TuningProgress:
        """Return the progress in the notes of a state; without notes, that of a tuning that begins."""
        results = [CheckpointResult(**result) for result in notes.get("found", [])]
        started = time.monotonic() - notes.get("seconds", 0.0)
        return cls(done, results, started, notes.get("decided_at"), notes.get("reason", ""))

    def notes(self) -> dict[str, Any]:
        """Return the progress as notes of a state."""
        decision = {"decided_at": self.decided_at, "reason": self.reason}
        return {"found": [asdict(result) for result in self.results], "seconds": self._seconds(), **decision}

    def decide(self, reason: str | None) -> None:
        """End early after the step that is done if there is a reason to."""
        if reason is not None:
            self.decided_at, self.reason = self.done, reason

    def summary(self) -> dict[str, Any]:
        """Return the figures of a finished tuning."""
        results = [{"name": result.name, "step": result.step, "loss": result.loss} for result in self.results]
        return {"seconds": self._seconds(), "checkpoints": results, "ended_early": self.reason or None}

    def _seconds(self) -> float:
        return time.monotonic() - self.started


def validation_points(rows: ValidationRows, results: Sequence[CheckpointResult]) -> list[ValidationPoint]:
    """Return the checkpoints of a run on its validation rows, in the order of their steps."""
    return [ValidationPoint(result.step, _values(rows.file(result.name), rows.task), result.loss) for result in results]


def _values(file: Path, task: Task) -> list[float]:
    """Return the value of each row, higher is better, 1 is right; a row that cannot be scored counts as 0."""
    name = task.score_name_by_metric.get(task.metric)
    scores = [prediction.score for prediction in read_predictions(file)] if file.exists() else []
    if name is None:
        return [float(score.correct or 0) for score in scores]
    return [goodness(task.metric, score.scores.get(name, 0.0)) / 100 for score in scores]
