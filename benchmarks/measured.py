"""Results of runs of lotune, kept as they are made, and how a table shows them.

A result is a record of a file of JSON lines under its id. A result that exists is not measured again, so a stopped
command continues where it was; a file belongs to one version of lotune.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotune.evaluate.statistics import Interval, bootstrap_difference
from lotune.record_files import append_record, stored_records

Command = Callable[[Path, Sequence[str]], float]
"""Run a command of lotune in a folder, and return its processor time in seconds."""


def run_lotune(folder: Path, words: Sequence[str]) -> float:
    """Run a command of lotune, and return its processor time in seconds: other programs do not add to it.

    Raises: CalledProcessError, after its last lines are printed.
    """
    before = _processor_seconds()
    done = subprocess.run([sys.executable, "-m", "lotune", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-5:]), file=sys.stderr)
        done.check_returncode()
    return _processor_seconds() - before


def _processor_seconds() -> float:
    """Return the processor time of the commands so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured_once(results: Path, id: str, measure: Callable[[], dict[str, Any]]) -> Mapping[str, Any]:
    """Return the record of an id, measured only if there is none."""
    known = records(results).get(id)
    if known is None:
        known = {"id": id, **measure()}
        append_record(results, known)
        print(json.dumps(known), flush=True)
    return known


@dataclass(frozen=True)
class SetMeasurement:
    """The measurement of one set in a folder of its own."""

    name: str
    folder: Path
    results: Path
    words: tuple[str, ...] = ()
    """Settings of every run, such as threads=1."""
    command: Command = run_lotune

    def result(self, key: str, measure: Callable[[], dict[str, Any]]) -> Mapping[str, Any]:
        """Return the record of a key, measured only if there is none."""
        return measured_once(self.results, record_id(self.name, key), measure)


def record_id(set_name: str, key: str) -> str:
    """Return the id of a record of a set.

    >>> record_id("demo", "strength")
    'demo: strength'
    """
    return f"{set_name}: {key}"


def records(results: Path) -> dict[str, Mapping[str, Any]]:
    """Return the records so far by id."""
    return {str(key[0]): record for key, record in stored_records([results]).items() if isinstance(key, tuple)}


def verdicts_of(predictions: Path) -> str:
    """Return the verdicts of a predictions file in the order of the ids, as a text of 1 and 0."""
    lines = predictions.read_text(encoding="utf-8").splitlines()
    verdicts = {record["id"]: bool(record["correct"]) for record in map(json.loads, lines)}
    return "".join("01"[verdicts[id]] for id in sorted(verdicts))


def accuracy(verdicts: str) -> float | None:
    """Return the accuracy, 0 to 1; None without verdicts.

    >>> accuracy("1101"), accuracy("")
    (0.75, None)
    """
    return verdicts.count("1") / len(verdicts) if verdicts else None


def paired_interval(before: str, after: str) -> Interval | None:
    """Return the 95 % interval of the accuracy after - before on the same rows, 0 to 1; None if all differ alike.

    >>> paired_interval("0000" * 25, "0001" * 25)
    Interval(low=0.17, high=0.34)
    """
    first, second = ([float(verdict) for verdict in verdicts] for verdicts in (before, after))
    return bootstrap_difference(first, second)


def percent(value: float | None) -> str:
    """Return a fraction in percent.

    >>> percent(0.9751), percent(None)
    ('97.5 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Return a Markdown table.

    >>> markdown(["set", "value"], [["demo", "1"]])
    '| set | value |\n| --- | --- |\n| demo | 1 |\n'
    """
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))
