"""Measure what remedies against forgetting keep and cost: `python -m benchmarks.retention COMMAND FOLDER [SET ...]`.

`run` measures what is missing, with one run for each remedy and set, and prints the tables. If it is stopped, it
continues where it was, in the same folder. `page` writes docs/retention.md from the results.

`benchmarks/results/retention.jsonl` has the results so far, of one thread beside other work. A copy of it, named
results.jsonl, can be continued in another FOLDER.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measured import Command, record_id, records, run_lotune
from benchmarks.retention.measure import Measurement
from benchmarks.retention.page import PAGE, page
from benchmarks.retention.remedies import REMEDIES, SETS
from benchmarks.retention.table import print_tables

COMMANDS = ("run", "page")


def main(words: Sequence[str] | None = None, command: Command = run_lotune) -> None:
    """Run a command of the benchmark; a remedy whose run fails is left out, and the exit status is 1."""
    options = _options(words)
    results = options.folder / "results.jsonl"
    names = options.sets or list(SETS)
    if options.command == "page":
        options.page.write_text(page(names, records(results)), encoding="utf-8")
        print(options.page)
        return
    failed = [
        record_id(name, remedy)
        for name in names
        for remedy in REMEDIES
        if not _measured(Measurement(name, options.folder / name, results, tuple(options.set), command), remedy)
    ]
    print_tables(names, records(results))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command tries them again")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: all of {', '.join(SETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="setting of every run")
    parser.add_argument("--page", type=Path, default=PAGE, help="file that `page` writes")
    options = parser.parse_args(words)
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}")
    return options


def _measured(measurement: Measurement, remedy: str) -> bool:
    """Measure a remedy unless it has a record; return False if its run fails."""
    try:
        measurement.measure(remedy)
    except subprocess.CalledProcessError:
        return False
    return True


if __name__ == "__main__":
    main()
