"""Seconds that a command takes: wall-clock time and CPU time.

    python benchmarks/start.py [--rounds 5] [--json FILE]

Each command is a separate process, in a folder of two files of rows, recipes that are refused, and two files of
predictions. The minimum of some rounds counts, after a warm-up round. `evaluate` answers a single question.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS: dict[str, tuple[tuple[str, ...], float]] = {
    "help": (("--help",), 0.3),
    "help of tune": (("tune", "--help"), 0.6),
    "init on 60 rows": (("init", "rows.csv", "--force"), 1.0),
    "init on 1,000 rows": (("init", "many.csv", "--force"), 1.5),
    "refused: a task that does not exist": (("run", "task.yaml"), 1.0),
    "refused: rows of another task": (("run", "unusable.yaml"), 1.0),
    "compare": (("compare", "a.jsonl", "b.jsonl"), 1.0),
    "evaluate --model nano": (("evaluate", "--model", "nano", "--task", "arithmetic", "--limit", "1"), 3.0),
}
"""Command and the seconds that it may take on an idle machine, by name."""


def write_inputs(folder: Path) -> None:
    """Write the files that the commands read."""
    for name, rows in (("rows", 60), ("many", 1000)):
        lines = "".join(f"{n} and {n}?,{2 * n}\n" for n in range(rows))
        (folder / f"{name}.csv").write_text(f"question,answer\n{lines}")
    (folder / "task.yaml").write_text("task: {name: nosuch}\n")
    (folder / "unusable.yaml").write_text("task: {name: choice}\ndata: {train: rows.csv}\n")
    answer = {"prompt": "1 + 1 =", "answer": "2", "extracted": "2", "reference": "2", "scores": {}, "kind": "add"}
    for name in ("a", "b"):
        lines = (json.dumps({"id": str(n), **answer, "correct": n % 7 > 0}) for n in range(300))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def seconds_of(arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Return the wall-clock and the CPU seconds of one command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "lotune", *arguments], capture_output=True, cwd=folder, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that each command is run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name))
        for title, (arguments, reach) in COMMANDS.items():
            rounds = [seconds_of(arguments, Path(name)) for _ in range(options.rounds + 1)][1:]
            wall, cpu = (min(times) for times in zip(*rounds, strict=True))
            print(f"{title:40} {wall:6.2f} s, {cpu:6.2f} s of CPU time; to reach: {reach:g} s", flush=True)
            figures.append({"name": title, "ours": wall, "reach": reach, "unit": "s"})
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
