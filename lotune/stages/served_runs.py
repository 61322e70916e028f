"""The runs of a folder as the pages of a server show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lotune.errors import LotuneError
from lotune.files import read_json
from lotune.record_files import record_lines
from lotune.runs import METRICS_FILE, PLAN_FILE, Run, running_process
from lotune.stages.pretraining_validation import SAMPLES_FILE

MAX_POINTS = 400
"""Points of a curve; of more steps, the mean of each part is shown."""
MAX_RUNS = 1000


@dataclass(frozen=True)
class ServedRuns:
    """The runs below one folder; a run is found by its name alone."""

    folder: Path

    def list(self) -> Sequence[Mapping[str, Any]]:
        """Return name, state and scorecard figures of each run."""
        runs = sorted(self._runs().items())[:MAX_RUNS]
        return [{"name": name, "state": _state(folder), **scorecard_figures(folder)} for name, folder in runs]

    def describe(self, name: str) -> Mapping[str, Any] | None:
        """Return the state of a run with its losses and samples, None if there is none of that name."""
        folder = self._runs().get(name)
        if folder is None:
            return None
        records = _records(folder / METRICS_FILE)
        steps = [(record["number"], record["loss"]) for record in records if "number" in record]
        found = [record["validation"] for record in records if "validation" in record]
        plan = read_object(folder / PLAN_FILE)
        return {
            "name": name, "state": _state(folder), "step": steps[-1][0] if steps else 0, "steps": plan.get("steps"),
            "loss": means(steps), "report": (folder / "report.html").is_file(),
            "validation": [(one["step"], one["loss"]) for one in found if isinstance(one.get("loss"), float)],
            "samples": [
                {"step": one["step"], "prompt": one["prompt"], "continuation": one["continuation"]}
                for one in _records(folder / SAMPLES_FILE)[-60:]
            ],
        }  # fmt: skip

    def report(self, name: str) -> bytes | None:
        """Return the report of a run as HTML, None if there is none."""
        folder = self._runs().get(name)
        file = folder / "report.html" if folder is not None else None
        return file.read_bytes() if file is not None and file.is_file() else None

    def _runs(self) -> dict[str, Path]:
        folders = (path for path in self.folder.iterdir() if path.is_dir())
        return {path.name: path for path in folders if (path / "recipe.yaml").is_file()}


def scorecard_figures(folder: Path) -> dict[str, Any]:
    """Return the figures of a run's scorecard that a list of runs shows; each is None without a scorecard."""
    card = read_object(folder / "scorecard.json")
    target, gated = card.get("target", {}), [one for one in card.get("retention", []) if one.get("is_gated", True)]
    kept = [one["retained"] for one in gated if one.get("retained") is not None]
    return {
        "task": target.get("task"), "metric": target.get("metric"),
        "base": target.get("base_value"), "tuned": target.get("value"), "kept": min(kept, default=None),
        "ratio": card.get("parameters", {}).get("ratio"), "score": (card.get("score") or {}).get("value"),
        "valid": card.get("valid"),
    }  # fmt: skip


def _state(folder: Path) -> str:
    """Return training, done or started, the names of the pages' texts."""
    if running_process(folder) is not None:
        return "training"
    try:
        stages = Run(folder).stages().keys()
    except (LotuneError, ValueError):
        return "started"
    return "done" if {"tune", "pretrain"} & stages else "started"


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if it is missing or damaged."""
    try:
        content = read_json(path) if path.is_file() else {}
    except (LotuneError, ValueError):  # half a file is no reason to show no run
        content = {}
    return content if isinstance(content, dict) else {}


def _records(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for _, line in record_lines(path.read_bytes())] if path.exists() else []


def means(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most MAX_POINTS points, each the last step and the mean value of a part.

    >>> means([(1, 4.0), (2, 2.0)])
    [(1, 4.0), (2, 2.0)]
    """
    size = -(-len(points) // MAX_POINTS) or 1
    parts = (points[first : first + size] for first in range(0, len(points), size))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
