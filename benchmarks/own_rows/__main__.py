"""What the first run on rows of one's own reaches: `python -m benchmarks.own_rows COMMAND FOLDER [SET ...]`.

`write` writes the files, `table` prints what is known. `first` measures `init` and `run` without a further setting,
and the rows held out; `grid` compares it with the best of twelve settings, which takes hours. Both continue where they
were stopped, in the same folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.own_rows.files import write_set
from benchmarks.own_rows.measure import Measurement, table
from benchmarks.own_rows.sets import SETS

COMMANDS = ("write", "first", "grid", "table")


def main() -> None:
    """Run a command of the benchmark; a set whose run fails is left out, and the exit status is 1."""
    options = _options()
    results = options.folder / "results.jsonl"
    names = options.sets or list(SETS)
    failed = []
    for name in names if options.command != "table" else ():
        try:
            _measure(options.command, Measurement(name, options.folder / name, results, tuple(options.set)))
        except subprocess.CalledProcessError:
            failed.append(name)
    if options.command != "write":
        print(table(names, results), end="")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command tries them again")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_rows", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: all of {', '.join(SETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="setting of every run")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}")
    return options


def _measure(command: str, measurement: Measurement) -> None:
    if command == "write":
        print(*write_set(measurement.name, measurement.folder))
        return
    measurement.held_out_of_first_run()
    if command == "grid":
        measurement.best_of_grid()


if __name__ == "__main__":
    main()
