"""Measure the first run of each set, and what the best of a grid reaches; every result is kept as it is made.

A result is a record of `results.jsonl` under its id. A result that exists is not measured again, so a stopped command
continues where it was; a folder belongs to one version of lotune.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.own_rows.files import write_set
from lotune.evaluate.statistics import bootstrap_difference
from lotune.record_files import append_record, stored_records

GRID = tuple(
    {"tune.learning_rate": rate, "tune.epochs": epochs, "retention.replay.rows": replay}
    for rate, epochs, replay in product((2e-3, 5e-3, 1.2e-2), (3, 8), (0, 1000))
)
"""The settings of the grid."""

Command = Callable[[Path, Sequence[str]], None]
"""Run a command of lotune in a folder."""


def run_lotune(folder: Path, words: Sequence[str]) -> None:
    """Run a command of lotune. Raises: CalledProcessError, after its last lines are printed."""
    done = subprocess.run([sys.executable, "-m", "lotune", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-5:]), file=sys.stderr)
        done.check_returncode()


@dataclass(frozen=True)
class Measurement:
    """The measurement of one set in a folder of its own."""

    name: str
    folder: Path
    results: Path
    words: tuple[str, ...] = ()
    """Settings of every run, such as threads=1."""
    command: Command = run_lotune

    def result(self, key: str, measure: Callable[[], dict[str, Any]]) -> Mapping[str, Any]:
        """Return the record of a key, measured only if there is none."""
        id = f"{self.name}: {key}"
        known = records_by_id(self.results).get(id)
        if known is None:
            known = {"id": id, **measure()}
            append_record(self.results, known)
            print(json.dumps(known), flush=True)
        return known

    def first_run(self) -> Mapping[str, Any]:
        """Return what `init` and `run` reach without a further setting."""
        return self.result("first run", self._first_run)

    def held_out_of_first_run(self) -> Mapping[str, Any]:
        """Return the verdicts of the first run's checkpoint on the rows held out."""
        self.first_run()
        return self.result("held out, first run", lambda: self._held_out(self.recipe.stem, "first"))

    def best_of_grid(self) -> Mapping[str, Any]:
        """Return the verdicts of the grid's best checkpoint by validation on the rows held out."""
        self.first_run()
        cells = [self.result(f"grid {number}", lambda number=number: self._cell(number)) for number in range(len(GRID))]
        best = max(cells, key=lambda cell: cell["validation"])
        return self.result("held out, best of grid", lambda: {**self._held_out(best["run"], "best"), "cell": best})

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
        start = time.monotonic()
        self.command(self.folder, ["run", self.make_recipe(), *self.words])
        card = json.loads((self.folder / "runs" / self.recipe.stem / "scorecard.json").read_text(encoding="utf-8"))
        return {
            "seconds": round(time.monotonic() - start, 1),
            "valid": card["valid"],
            "reasons": card["reasons"],
            "metric": card["target"]["metric"],
            "base": card["target"]["base_value"],
            "tuned": card["target"]["value"],
            "kept": {metric["metric"]: metric["retained"] for metric in card["retention"] if metric["is_gated"]},
        }

    def _cell(self, number: int) -> dict[str, Any]:
        run = f"grid-{number}"
        settings = [f"{key}={value}" for key, value in GRID[number].items()]
        self.command(self.folder, ["tune", self.recipe.name, f"name={run}", *settings, *self.words])
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
        lines = (self.folder / out).read_text(encoding="utf-8").splitlines()
        verdicts = {record["id"]: bool(record["correct"]) for record in map(json.loads, lines)}
        return {"run": run, "verdicts": "".join("01"[verdicts[id]] for id in sorted(verdicts))}


def _flow(value: Any) -> str:
    """Return a value as a command line takes it: a text as it stands, anything else as YAML in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def records_by_id(results: Path) -> dict[str, Mapping[str, Any]]:
    """Return the results by id."""
    return {record["id"]: record for record in stored_records([results]).values()}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(markdown(["set", "rate"], [["stars", "0.1"]]), end="")
    | set | rate |
    | --- | --- |
    | stars | 0.1 |
    """
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def table(names: Sequence[str], results: Path) -> str:
    """Return the results as a Markdown table; what has not been measured is a dash."""
    head = ["set", "first run", "base", "tuned", "kept", "seconds", "held out", "best of grid", "difference, 95 %"]
    records = records_by_id(results)
    return markdown(head, (_table_row(name, records) for name in names))


def _table_row(name: str, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = records.get(f"{name}: first run")
    verdicts = [records.get(f"{name}: held out, {of}", {}).get("verdicts", "") for of in ("first run", "best of grid")]
    measured = ["–"] * 5
    if first:
        kept = min((value for value in first["kept"].values() if value is not None), default=None)
        measured = [
            "VALID" if first["valid"] else "NOT VALID",
            _percent(first["base"]),
            _percent(first["tuned"]),
            _percent(kept),
            f"{first['seconds']:.0f}",
        ]
    return [name, *measured, *(_percent(_mean(text)) for text in verdicts), _difference(*verdicts)]


def _mean(verdicts: str) -> float | None:
    return verdicts.count("1") / len(verdicts) if verdicts else None


def _percent(value: float | None) -> str:
    """Return a fraction in percent.

    >>> _percent(0.9751), _percent(None)
    ('97.5 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def _difference(first: str, best: str) -> str:
    """Return the paired interval of first - best in points.

    >>> _difference("1111", "1111"), _difference("", "1")
    ('0.0', '–')
    """
    if not first or not best:
        return "–"
    before, after = ([float(verdict) for verdict in verdicts] for verdicts in (best, first))
    interval = bootstrap_difference(before, after)
    if interval is None:
        return f"{100 * (after[0] - before[0]):.1f}"
    return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
