"""Measure each remedy on each set: one run, and one record of its figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measured import SetMeasurement, record_id, records, verdicts_of
from benchmarks.own_rows.files import write_set
from benchmarks.retention.remedies import NONE, REMEDIES, SETS, run_words


class Measurement(SetMeasurement):
    """The measurement of the remedies."""

    def measure(self, remedy: str) -> Mapping[str, Any]:
        """Return the record of a remedy; run the remedy only if there is none."""
        return self.result(remedy, lambda: self._measure(remedy))

    def _measure(self, remedy: str) -> dict[str, Any]:
        self._write_recipe()
        shutil.rmtree(self._run(remedy), ignore_errors=True)  # of a stopped run, the time so far is not known
        earlier = self._copy_tuning(remedy) if REMEDIES[remedy].continues else 0.0
        seconds = earlier + self.command(self.folder, [*run_words("tune", self.name, remedy), *self.words])
        self.command(self.folder, [*run_words("run", self.name, remedy), *self.words])
        return {**figures(self._run(remedy)), "seconds": round(seconds, 1)}

    def _run(self, remedy: str) -> Path:
        return self.folder / "runs" / remedy

    def _write_recipe(self) -> None:
        """Write the files and the recipe of the set, unless they exist or lotune ships the recipe."""
        task_set = SETS[self.name]
        self.folder.mkdir(parents=True, exist_ok=True)
        if task_set.own_rows and not (self.folder / task_set.recipe).exists():
            file, _ = write_set(self.name, self.folder)
            self.command(self.folder, ["init", file.name, "--force"])

    def _copy_tuning(self, remedy: str) -> float:
        """Begin a run with a copy of the run without a remedy, and return the seconds of that run.

        If that is not finished, nothing is copied, and the remedy's run tunes anew.
        """
        source, copy = self._run(NONE), self._run(remedy)
        known = records(self.results).get(record_id(self.name, NONE))
        if known is None or not source.exists():
            return 0.0
        part = copy.with_name(f".{remedy}.part")  # a copy that was stopped must not pass as a run
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        part.rename(copy)
        return float(known["seconds"])


def figures(run: Path) -> dict[str, Any]:
    """Return the figures of a finished run."""
    card = _read(run / "scorecard.json")
    return {
        "valid": card["valid"],
        "verdicts": verdicts_of(run / "predictions" / card["target"]["task"] / f"{card['chosen_checkpoint']}.jsonl"),
        "base": card["target"]["base_value"],
        "kept": kept(card["retention"]),
        "divergence": {line["set"]: [line["value"], line["interval"]] for line in card["divergence"]},
        "repair": card["repair"],
        "strength": (card["strength"] or {}).get("chosen"),
    }


def kept(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the retained fraction and its interval, by ability and metric; only gated metrics of a gated ability.

    >>> metrics = {"f1": True, "bleu": False}
    >>> lines = [{"task": "reading", "metric": name, "is_gated": gated} for name, gated in metrics.items()]
    >>> kept([{**line, "retained": 0.9, "retained_interval": [0.8, 1.0]} for line in lines])
    {'reading': {'f1': [0.9, [0.8, 1.0]]}}
    """
    lines = list(lines)
    gated = {line["task"] for line in lines if line["is_gated"]}
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["is_gated"] or line["task"] not in gated:
            found.setdefault(line["task"], {})[line["metric"]] = [line["retained"], line["retained_interval"]]
    return found


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
