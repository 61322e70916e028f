"""A run while it works: curves, validations, samples and answers, read from its files as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from lotune.record_files import record_lines
from lotune.runs import METRICS_FILE, PLAN_FILE
from lotune.stages.pretraining_validation import SAMPLES_FILE
from lotune.stages.served_runs import means, read_object
from lotune.stages.validation_rows import ANSWERS, BASE, SHOWN_ROWS
from lotune.stages.watch import RECENT_STEPS

MAX_SHOWN_SAMPLES = 12
MAX_FOLLOWED = 64
"""Number of runs whose curves are kept in memory."""


@dataclass(eq=False)
class Curves:
    """The steps and validations of a run; each look reads only what was appended since the last one."""

    file: Path
    steps: list[tuple[int, float]] = field(default_factory=list)
    recent: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0
    _inode: int = 0

    def update(self) -> None:
        """Read what was appended; begin again with a file that was written anew, as on resuming."""
        try:
            status = self.file.stat()
        except OSError:
            self._begin(0)
            return
        if status.st_ino != self._inode or status.st_size < self._read:
            self._begin(status.st_ino)
        if status.st_size == self._read:
            return
        with self.file.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data.rpartition(b"\n")[0] + b"\n" if b"\n" in data else b""
        self._read += len(whole)
        for _, line in record_lines(whole):
            with suppress(orjson.JSONDecodeError):
                self._add(orjson.loads(line))

    def _begin(self, inode: int) -> None:
        self.steps, self.recent, self.validations, self._read, self._inode = [], [], [], 0, inode

    def _add(self, record: Any) -> None:
        if not isinstance(record, dict):
            return
        if isinstance(found := record.get("validation"), dict):
            self.validations.append(found)
        elif "number" in record and "loss" in record:
            self.steps.append((record["number"], record["loss"]))
            self.recent = [*self.recent[1 - RECENT_STEPS :], record]


@dataclass(eq=False)
class LiveRuns:
    """The runs that pages look at."""

    _curves: dict[Path, Curves] = field(default_factory=dict, init=False)
    _answers: dict[Path, tuple[Any, list[dict[str, Any]]]] = field(default_factory=dict, init=False)

    def picture(self, folder: Path, process: psutil.Process | None) -> dict[str, Any]:
        """Return the progress of a run: curves, validations, samples, answers, speed, time left and memory.

        `process` is the one that works on it; without one there is no speed, no time left and no memory.
        """
        curves = self._curves.pop(folder, None) or Curves(folder / METRICS_FILE)
        self._curves[folder] = curves
        if len(self._curves) > MAX_FOLLOWED:
            self._curves.pop(next(iter(self._curves)))
        curves.update()
        plan = read_object(folder / PLAN_FILE)
        step, steps = (curves.steps[-1][0] if curves.steps else 0), plan.get("steps")
        return {
            "title": plan.get("title"), "step": step, "steps": steps, "loss": means(curves.steps),
            "last_loss": curves.steps[-1][1] if curves.steps else None, "validations": curves.validations,
            "samples": self._samples(folder), "answers": self.answers(folder, curves.validations),
            "scorecard": read_object(folder / "scorecard.json") or None, "gate": _gate(folder),
            **(_pace(curves, steps) if process is not None else {}),
            "memory_bytes": _memory(process) if process is not None else None,
        }  # fmt: skip

    def answers(self, folder: Path, validations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the first validation rows with the answers of the base and of each checkpoint."""
        base = self._first(folder / ANSWERS / f"{BASE}.jsonl")
        names = [str(found["name"]) for found in validations if "name" in found]
        by_name = {name: self._first(folder / ANSWERS / f"{name}.jsonl") for name in names}
        first = base or next(iter(by_name.values()), [])
        rows = []
        for row in first:
            given = {name: _of_id(answers, row["id"]) for name, answers in by_name.items()}
            rows.append({
                "id": row["id"], "prompt": row["prompt"], "reference": row["reference"],
                "base": _shown(row) if base else None,
                "checkpoints": {name: _shown(answer) for name, answer in given.items() if answer is not None},
            })  # fmt: skip
        return rows

    def _first(self, file: Path) -> list[dict[str, Any]]:
        """Return the first answers of a file."""
        try:
            stamp = file.stat().st_mtime_ns
        except OSError:
            return []
        known = self._answers.get(file)
        if known is None or known[0] != stamp:
            with file.open("rb") as lines:
                first = [line for line, _ in zip(lines, range(SHOWN_ROWS), strict=False)]
            known = stamp, [orjson.loads(line) for line in first if line.endswith(b"\n")]
            self._answers[file] = known
        return known[1]

    def _samples(self, folder: Path) -> list[dict[str, Any]]:
        file = folder / SAMPLES_FILE
        if not file.exists():
            return []
        records = [orjson.loads(line) for _, line in record_lines(file.read_bytes())]
        return records[-MAX_SHOWN_SAMPLES:]


def _of_id(answers: Sequence[dict[str, Any]], id: str) -> dict[str, Any] | None:
    return next((answer for answer in answers if answer["id"] == id), None)


def _shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer.get(name) for name in ("answer", "extracted", "correct", "scores")}


def _pace(curves: Curves, steps: int | None) -> dict[str, Any]:
    """Return tokens per second and the seconds that are left, both of the last steps."""
    seconds = sum(record.get("seconds", 0.0) for record in curves.recent)
    if not seconds:
        return {}
    left = None if steps is None else seconds / len(curves.recent) * (steps - curves.steps[-1][0])
    return {
        "tokens_per_second": sum(record.get("tokens", 0) for record in curves.recent) / seconds, "seconds_left": left
    }  # fmt: skip


def _gate(folder: Path) -> float | None:
    """Return the fraction of the base that a run is to retain; None without a recipe of its own."""
    try:
        text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    except OSError:
        return None
    # A line is enough: parsing the whole recipe on each look would cost more than all else.
    for line in text.splitlines():
        name, _, value = line.strip().partition(":")
        if name == "min_retained":
            with suppress(ValueError):
                return float(value)
    return None


def _memory(process: psutil.Process) -> int | None:
    """Return the resident memory of a process in bytes."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return None
