"""Measure the first run on each set, and the best run of a grid of settings; every result is stored at once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measured import (
    Command,
    SetMeasurement,
    accuracy,
    markdown,
    paired_interval,
    percent,
    records,
    run_lotune,
    verdicts_of,
)
from benchmarks.own_rows.files import write_set
from lotune.tasks.metrics import LOWER_IS_BETTER

# Steps and not epochs: eight passes over 60 rows are too few to compare with, and over 1,500 rows they take long.
GRID = tuple(
    {"tune.learning_rate": rate, "tune.steps": steps, "retention.replay.rows": replay}
    for rate, steps, replay in product((2e-3, 5e-3, 1.2e-2), (200, 600), (0, 300))
)
"""The settings of the grid."""
GRID_SETTINGS = ("retention.validation_rows=0", "retention.action=report", "checkpoints.merged=none")
"""Settings of every run of the grid."""


class Measurement(SetMeasurement):
    """The measurement of the first run and of the grid."""

    def first_run(self) -> Mapping[str, Any]:
        """Return what `init` and `run` reach without a further setting."""
        return self.result("first run", self._first_run)

    def held_out_of_first_run(self) -> Mapping[str, Any]:
        """Return the verdicts of the first run's checkpoint on the rows held out."""
        self.first_run()
        return self.result("held out, first run", lambda: self._held_out(self.recipe.stem, "first"))

    def best_of_grid(self) -> Mapping[str, Any]:
        """Return the verdicts, on the rows held out, of the grid's best checkpoint by validation."""
        self.first_run()
        cells = [self.result(f"grid {number}", lambda number=number: self._cell(number)) for number in range(len(GRID))]
        best = max(cells, key=lambda cell: cell["validation"])

        def held_out() -> dict[str, Any]:
            if not (self.folder / "runs" / best["run"]).exists():  # the results come from another folder
                self._cell(cells.index(best))
            return {**self._held_out(best["run"], "best"), "cell": best}

        return self.result("held out, best of grid", held_out)

    @property
    def recipe(self) -> Path:
        """The recipe that `init` writes."""
        return self._files[0].with_suffix(".yaml")

    @property
    def _files(self) -> tuple[Path, Path]:
        return write_set(self.name, self.folder)

    def make_recipe(self) -> str:
        """Write the file of the set and its recipe, as `init` does; return the recipe's name."""
        self.command(self.folder, ["init", self._files[0].name, "--force"])
        return self.recipe.name

    def _first_run(self) -> dict[str, Any]:
        return first_run(self.folder, self._files[0].name, self.command, self.words)

    def _cell(self, number: int) -> dict[str, Any]:
        run = f"grid-{number}"
        settings = [f"{key}={value}" for key, value in GRID[number].items()]
        recipe = self.recipe.name if self.recipe.exists() else self.make_recipe()
        self.command(self.folder, ["tune", recipe, f"name={run}", *settings, *GRID_SETTINGS, *self.words])
        tuning = self._tuning(run)
        value = next(point["value"] for point in tuning["checkpoints"] if point["name"] == tuning["chosen"])
        return {"run": run, **GRID[number], "validation": value}

    def _tuning(self, run: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "runs" / run / "tuning.json").read_text(encoding="utf-8"))
        return content

    def _held_out(self, run: str, label: str) -> dict[str, Any]:
        """Return the verdicts of a run's chosen checkpoint, row by row, as a text of 1 and 0."""
        task = dict(yaml.safe_load(self.recipe.read_text(encoding="utf-8"))["task"])
        settings = [f"task.{key}={_flow(value)}" for key, value in task.items() if key != "name"]
        adapter = Path("runs") / run / "checkpoints" / self._tuning(run)["chosen"] / "adapter"
        out = f"{label}.jsonl"
        words = ["--model", str(adapter), "--task", task["name"], "--data", self._files[1].name, "--out", out]
        self.command(self.folder, ["evaluate", *words, *settings])
        return {"run": run, "verdicts": verdicts_of(self.folder / out)}


def first_run(folder: Path, file: str, command: Command = run_lotune, words: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `init` and `run` reach on a file of a folder."""
    recipe = Path(file).with_suffix(".yaml")
    start = time.monotonic()
    command(folder, ["init", file, "--force"])
    command(folder, ["run", recipe.name, *words])
    card = json.loads((folder / "runs" / recipe.stem / "scorecard.json").read_text(encoding="utf-8"))
    target = card["target"]
    return {
        "seconds": round(time.monotonic() - start, 1),
        "valid": card["valid"],
        "reasons": card["reasons"],
        "metric": target["metric"],
        "base": target["base_value"],
        "tuned": target["value"],
        "better": target["better"],
        "kept": {metric["metric"]: metric["retained"] for metric in card["retention"] if metric["is_gated"]},
    }


def _flow(value: Any) -> str:
    """Return a value as the command line takes it: a text unchanged, anything else as YAML in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def table(names: Sequence[str], results: Path) -> str:
    """Return the results as a Markdown table; what has not been measured is a dash."""
    head = ["set", "first run", "base", "tuned", "kept", "seconds", "held out", "best of grid", "difference, 95 %"]
    known = records(results)
    return markdown(head, [_table_row(name, known) for name in names])


def _table_row(name: str, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    measured = first_run_cells(known.get(f"{name}: first run"))
    verdicts = [known.get(f"{name}: held out, {of}", {}).get("verdicts", "") for of in ("first run", "best of grid")]
    return [name, *measured, *(percent(accuracy(text)) for text in verdicts), _difference(*verdicts)]


def first_run_cells(first: Mapping[str, Any] | None) -> list[str]:
    """Return verdict, base, tuned, smallest retained fraction and seconds of a first run; dashes if not measured."""
    if first is None:
        return ["–"] * 5
    kept = min((value for value in first["kept"].values() if value is not None), default=None)
    base, tuned = (_figure(first["metric"], first[key]) for key in ("base", "tuned"))
    return ["VALID" if first["valid"] else "NOT VALID", base, tuned, percent(kept), f"{first['seconds']:.0f}"]


def _figure(metric: str, value: float) -> str:
    """Return a figure in the unit of its metric.

    >>> _figure("accuracy", 0.975), _figure("bits_per_byte", 3.1), _figure("contest_f1", 12.0)
    ('97.5 %', '3.10', '12.0')
    """
    if metric == "accuracy":
        return percent(value)
    return f"{value:.2f}" if metric in LOWER_IS_BETTER else f"{value:.1f}"


def _difference(first: str, best: str) -> str:
    """Return the paired 95 % interval of first run minus best of grid, in points.

    >>> _difference("1111", "1111"), _difference("", "1")
    ('0.0', '–')
    """
    if not first or not best:
        return "–"
    interval = paired_interval(best, first)
    if interval is None:
        return f"{100.0 * (int(first[0]) - int(best[0])):.1f}"
    return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
