"""Measure the first run on files of public data, in the folder that LOTUNE_REFERENCE_DATA names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measured import Command, markdown, measured_once, records, run_lotune
from benchmarks.own_rows.measure import first_run, first_run_cells

FILES: Mapping[str, str] = {
    "math-300": "contest/math-300.jsonl",
    "choice-2000": "contest/choice-2000.json",
    "cmrc2018": "cmrc2018/cmrc2018_trial.json",
    "alpaca-zh": "sft/alpaca_zh_demo.json",
}
"""The files by name, relative to the folder of the reference data."""


def measure_real(
    name: str, data: Path, folder: Path, results: Path, words: tuple[str, ...], command: Command = run_lotune
) -> Mapping[str, Any]:
    """Return what `init` and `run` reach on a file of the folder `data`, measured only if there is no record of it."""
    source = data / FILES[name]

    def measure() -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / source.name)
        return first_run(folder, source.name, command, words)

    return measured_once(results, f"{name}: first run", measure)


def real_table(results: Path) -> str:
    """Return the results as a Markdown table; what has not been measured is a dash."""
    known = records(results)
    rows = []
    for name, file in FILES.items():
        first = known.get(f"{name}: first run")
        better = "–" if first is None else "yes" if first["better"] else "no"
        verdict, *figures = first_run_cells(first)
        rows.append([Path(file).name, "–" if first is None else first["metric"], *figures, better, verdict])
    return markdown(["file", "measure", "base", "tuned", "kept", "seconds", "better beyond chance", "result"], rows)
