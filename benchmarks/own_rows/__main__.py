"""Measure what the first run on your own rows reaches: `python -m benchmarks.own_rows COMMAND FOLDER [SET ...]`.

`write` writes the files of the sets. `first` measures `init` and `run` without any further setting, on the test rows
and on the rows held out; `grid` also measures the best of twelve settings; `real` measures the first run on files of
public data (LOTUNE_REFERENCE_DATA). `table` prints the results so far, and `page` writes docs/own-rows.md from them.
`all` does all of this, which takes hours. A command that was stopped continues where it was, in the same folder.

`benchmarks/results/own-rows.jsonl` has the results so far, of one thread beside other work. A copy of it, named
results.jsonl, can be continued in another FOLDER.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.own_rows.files import write_set
from benchmarks.own_rows.measure import Measurement, table
from benchmarks.own_rows.page import PAGE, page
from benchmarks.own_rows.real import FILES, measure_real, real_table
from benchmarks.own_rows.sets import SETS

COMMANDS = ("write", "first", "grid", "real", "all", "table", "page")


def main() -> None:
    """Run a command of the benchmark; a set whose run fails is left out, and the exit status is 1."""
    options = _options()
    results = options.folder / "results.jsonl"
    failed = []
    for name, measure in _measurements(options, results):
        try:
            measure()
        except subprocess.CalledProcessError:
            failed.append(name)
    if options.command in ("page", "all"):
        PAGE.write_text(page(results), encoding="utf-8")
        print(PAGE)
    elif options.command == "real":
        print(real_table(results), end="")
    elif options.command != "write":
        print(table(options.sets or list(SETS), results), end="")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command tries them again")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_rows", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: all of {', '.join((*SETS, *FILES))}")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="setting of every run")
    options = parser.parse_args()
    if unknown := set(options.sets) - {*SETS, *FILES}:
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}")
    if options.command in ("real", "all") and "LOTUNE_REFERENCE_DATA" not in os.environ:
        parser.error("LOTUNE_REFERENCE_DATA names no folder with the files of public data")
    return options


def _measurements(options: argparse.Namespace, results: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each measurement of a command with the name of its set."""
    words = tuple(options.set)
    for name in SETS if options.command in ("write", "first", "grid", "all") else ():
        if not options.sets or name in options.sets:
            measurement = Measurement(name, options.folder / name, results, words)
            yield name, partial(_measure, options.command, measurement)
    for name in FILES if options.command in ("real", "all") else ():
        if not options.sets or name in options.sets:
            data, folder = Path(os.environ["LOTUNE_REFERENCE_DATA"]), options.folder / name
            yield name, partial(measure_real, name, data, folder, results, words)


def _measure(command: str, measurement: Measurement) -> None:
    if command == "write":
        print(*write_set(measurement.name, measurement.folder))
        return
    measurement.held_out_of_first_run()
    if command in ("grid", "all"):
        measurement.best_of_grid()


if __name__ == "__main__":
    main()
