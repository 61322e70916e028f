"""Whether a tuning suits other bases and methods: `python -m benchmarks.own_rows.other_bases COMMAND FOLDER [SET ...]`.

Two cases: LoRA on a Llama of random weights, and prompt tuning on nano. `defaults` tunes with the default settings:
does the loss fall, and does it stay down? `rates` compares the learning rate that a tuning takes by itself with five
others, all of the same few steps, by validation loss. `table` prints what is known. A stopped command continues where
it was; a folder belongs to one version of lotune and, in each case, to one number of steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measured import markdown, records
from benchmarks.own_rows.curves import END_FRACTION, FEWEST_STEPS, START_STEPS, end_loss, largest_rise, start_loss
from benchmarks.own_rows.measure import Measurement
from benchmarks.own_rows.sets import SETS
from benchmarks.train_workload import SEED, SHAPES
from lotune.record_files import record_lines

BASE = "random-llama"
"""The case with random weights, and the folder of its base, beside those of the sets."""
CASES = {
    "prompt-tuning": ("adapter.method=prompt_tuning",),
    BASE: (f"base.model=../{BASE}", "retention.replay.rows=0"),  # what random weights write is noise
}
"""The settings of each case, in which it differs from the first run of `benchmarks.own_rows`."""
COMMON = ("retention.validation_rows=0", "retention.action=report", "checkpoints.merged=none")
"""Settings of every tuning: only the task is measured."""
FACTORS = (1.0, 0.25, 0.5, 2.0, 4.0, 8.0)
"""The rates compared, as factors on the one that a tuning takes by itself, which comes first."""
LEAST_FALL, MOST_RISE, MOST_FACTOR = 0.2, 2.0, 3.0
"""What is to be reached: the fall of the loss, its rise above its running minimum, the factor to the best rate."""
COMMANDS = ("defaults", "rates", "table")


def main() -> None:
    """Run a command of the benchmark; a tuning that fails is left out, and the exit status is 1."""
    options = _options()
    results, failed = options.folder / "results.jsonl", []
    words = (*options.set, *(() if options.steps is None else (f"tune.steps={options.steps}",)))
    for case, name in product(options.case, options.sets) if options.command != "table" else ():
        other = OtherBase(case, Measurement(name, options.folder / name, results, words))
        try:
            other.with_defaults() if options.command == "defaults" else other.rates()
        except subprocess.CalledProcessError:
            failed.append(f"{case} on {name}")
    print(table(options.sets, results, options.case), end="")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command tries them again")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_rows.other_bases", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: all of {', '.join(SETS)}")
    parser.add_argument("--case", action="append", choices=CASES, help="default: all")
    parser.add_argument("--steps", type=int, help="steps of every tuning; default: those of a tuning by default")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="setting of every tuning")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}")
    if options.command == "rates" and options.steps is None:
        parser.error("rates needs --steps: all rates are compared after the same number")
    options.sets, options.case = options.sets or list(SETS), options.case or list(CASES)
    return options


@dataclass(frozen=True)
class OtherBase:
    """The tunings of one case on one set; `measurement` has their folder, records and common settings."""

    case: str
    measurement: Measurement

    def with_defaults(self) -> Mapping[str, Any]:
        """Return the figures of a tuning with the default settings."""
        return self.measurement.result(f"{self.case}, defaults", lambda: self._tuned(f"{self.case}-defaults", []))

    def rates(self) -> list[Mapping[str, Any]]:
        """Return the figures of a tuning with each rate, the one that a tuning takes by itself first."""
        first = self._with_rate(1.0, [])
        rates = [(factor, f"{first['rate'] * factor:.2g}") for factor in FACTORS[1:]]
        return [first, *(self._with_rate(factor, [f"tune.learning_rate={rate}"]) for factor, rate in rates)]

    def _with_rate(self, factor: float, settings: Sequence[str]) -> Mapping[str, Any]:
        # All rates share a run, so its rows are prepared once; a record is made before the next tuning replaces it.
        run, words = f"{self.case}-rates", ["checkpoints.count=1", *settings]
        return self.measurement.result(f"{self.case}, rate x {factor:g}", lambda: self._tuned(run, words))

    def _tuned(self, run: str, settings: Sequence[str]) -> dict[str, Any]:
        measurement, start = self.measurement, time.monotonic()
        if self.case == BASE:
            make_base(measurement.folder.parent / BASE)
        recipe = measurement.recipe.name if measurement.recipe.exists() else measurement.make_recipe()
        words = [*CASES[self.case], *COMMON, *measurement.words, *settings]
        measurement.command(measurement.folder, ["tune", recipe, f"name={run}", *words])
        return {"seconds": round(time.monotonic() - start, 1), **figures(measurement.folder / "runs" / run)}


def make_base(folder: Path) -> None:
    """Write a Llama of random weights with nano's tokeniser and as many tokens, unless the folder has one."""
    if folder.exists():
        return
    import torch

    from lotune.model.loading import load_tokenizer
    from lotune.model.new_models import new_llama
    from lotune.model.settings import BaseSettings

    torch.manual_seed(SEED)
    tokenizer, _ = load_tokenizer(BaseSettings())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    new_llama({**SHAPES["llama-40m"], "vocab_size": len(tokenizer), **ends}).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def figures(run: Path) -> dict[str, Any]:
    """Return the figures of a finished tuning: its rate, its steps, its lowest validation loss, and its curve."""
    lines = [json.loads(line) for _, line in record_lines((run / "metrics.jsonl").read_bytes())]
    losses = [record["loss"] for record in lines if "loss" in record]
    training = json.loads((run / "training.json").read_text(encoding="utf-8"))
    return {
        "rate": max(record["learning_rate"] for record in lines if "loss" in record),
        "steps": len(losses),
        "validation": min(checkpoint["loss"] for checkpoint in training["checkpoints"]),
        "start": start_loss(losses),
        "end": end_loss(losses),
        "rise": largest_rise(losses),
    }


def table(names: Sequence[str], results: Path, cases: Sequence[str] = tuple(CASES)) -> str:
    """Return the results as Markdown; what has not been measured is a dash."""
    head = ["case", "set", "steps", "rate", "best of six", "factor", "validation loss", "rate fits", "steps"]
    head += ["loss", "fall", "largest rise", "loss falls"]
    known = records(results)
    rows = [
        [case, name, *_rate_cells(f"{name}: {case}, rate x ", known), *_curve_cells(f"{name}: {case}", known)]
        for case in cases
        for name in names
    ]
    return markdown(head, rows) + (
        f"\nLoss: the mean of the first {START_STEPS} steps and of the last {100 * END_FRACTION:g} % (at least "
        f"{100 * LEAST_FALL:g} % lower). Rise: the mean over {100 * END_FRACTION:g} % of the steps, {FEWEST_STEPS} at "
        f"least, as a multiple of its lowest so far (at most {MOST_RISE:g}). Factor: best rate / own rate (at most "
        f"{MOST_FACTOR:g} either way).\n"
    )


def _rate_cells(prefix: str, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return steps, the rate, the best of six, their ratio, the validation losses of both, and whether it fits."""
    measured = [records[id] for factor in FACTORS if (id := f"{prefix}{factor:g}") in records]
    if len(measured) < len(FACTORS):
        return ["–"] * 6
    own, best = measured[0], min(measured, key=lambda record: record["validation"])
    factor = best["rate"] / own["rate"]
    fits = 1 / MOST_FACTOR <= factor <= MOST_FACTOR
    return [
        f"{own['steps']}",
        f"{own['rate']:.2g}",
        f"{best['rate']:.2g}",
        f"{factor:.2g}",
        f"{own['validation']:.3g}, best {best['validation']:.3g}",
        _yes(fits),
    ]


def _curve_cells(prefix: str, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return steps, the loss at both ends of the curve, its fall, its largest rise, and whether both are as wanted."""
    curve = records.get(f"{prefix}, defaults")
    if curve is None:
        return ["–"] * 5
    fall = 1 - curve["end"] / curve["start"]
    return [
        f"{curve['steps']}",
        f"{curve['start']:.3g} → {curve['end']:.3g}",
        f"{100 * fall:.0f} %",
        f"{curve['rise']:.2f}",
        _yes(fall >= LEAST_FALL and curve["rise"] <= MOST_RISE),
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


if __name__ == "__main__":
    main()
