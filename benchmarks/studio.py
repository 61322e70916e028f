"""What a studio costs: its start, its pages with many runs, a run that is watched, a large file, many answers.

    python benchmarks/studio.py [--figures start,list,watched,upload,answers] [--runs 500] [--json FILE]

`start`: seconds from the command until a browser would have the first page with its list of runs, with 500 runs in the
folder. `list`: seconds of the list and of one run afterwards. `watched`: CPU seconds of the studio over those of a
training that one page watches, asking as the page does. `upload`: a csv file of 500 MB is sent and read; the memory of
server and readers together, in MB, is the largest of many looks. `answers`: seconds of a filter, a search and a further
page over 100,000 answers. There is no peer in these figures: other studios need a graphics card, or have none of them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

POLL_SECONDS = 2.0
"""Seconds between two looks of a page at a run."""
UPLOAD_BYTES = 500 * 10**6
ANSWERS = 100_000
REACH = {
    "first page with many runs": 1.5, "list of many runs": 0.2, "one of many runs": 0.2, "watched run": 0.02,
    "memory with a large file": 300.0, "filter of many answers": 1.0, "search in many answers": 2.0,
    "further page of many answers": 0.2,
}  # fmt: skip
UNITS = {"watched run": "of the training's CPU", "memory with a large file": "MB"}


@dataclass
class Server:
    """A studio in a process of its own."""

    process: psutil.Process
    port: int
    token: str
    seconds: float
    """From the command until it was ready."""
    _connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def ask(self, path: str, method: str = "GET", body: Any = None, **query: Any) -> Any:
        """Return the JSON of a call, or the bytes of a page."""
        words = f"?{urlencode(query)}" if query else ""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        self._connection.request(method, path + words, content, headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status >= 300:
            raise SystemExit(f"{method} {path}: {response.status} {data[:500]!r}")
        return json.loads(data) if "json" in response.getheader("Content-Type", "") else data

    def seconds_of(self, path: str, **query: Any) -> float:
        started = time.perf_counter()
        self.ask(path, **query)
        return time.perf_counter() - started

    def cpu_seconds(self) -> float:
        """CPU seconds of the server and of the processes that read for it, not of runs."""
        return sum(seconds_of_process(one) for one in self.own())

    def own(self) -> list[psutil.Process]:
        return [self.process, *(one for one in self.process.children(recursive=True) if is_reader(one))]

    def memory_bytes(self) -> int:
        return sum(one.memory_info().rss for one in self.own())


def is_reader(process: psutil.Process) -> bool:
    try:
        return "lotune.studio.reader" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


def seconds_of_process(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def studio(folder: Path) -> Iterator[Server]:
    started = time.perf_counter()
    words = [sys.executable, "-m", "lotune", "studio", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address, _, token = process.stderr.readline().partition("ready on ")[2].strip().partition("/?token=")
    seconds = time.perf_counter() - started
    try:
        yield Server(psutil.Process(process.pid), int(address.rpartition(":")[2]), token, seconds)
    finally:
        process.terminate()
        process.communicate()


def write_rows(path: Path, rows: int) -> None:
    draw = random.Random(1)
    words = ("good", "bad", "fine", "slow", "nice", "room", "food", "staff", "clean", "dirty", "price", "late")
    with path.open("w") as file:
        file.write("review,mood\n")
        for row in range(rows):
            file.write(f'"{" ".join(draw.choices(words, k=12))} number {row}",{"pos" if row % 2 else "neg"}\n')


def finished_run(folder: Path) -> Path:
    """A finished run to copy: a short tuning of nano."""
    write_rows(folder / "rows.csv", 200)
    words = [sys.executable, "-m", "lotune"]
    subprocess.run([*words, "init", "rows.csv"], cwd=folder, check=True, capture_output=True)
    short = ["tune.epochs=1", "checkpoints.count=2", "retention.rows=20", "retention.replay.rows=20", "name=one"]
    subprocess.run([*words, "run", "rows.yaml", *short], cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "one"


def copy_runs(run: Path, count: int) -> None:
    for number in range(count):
        copied = run.with_name(f"copy-{number:04d}")
        copied.mkdir()
        for name in ("recipe.yaml", "stages.json", "scorecard.json", "metrics.jsonl", "plan.json", "tuning.json"):
            shutil.copy(run / name, copied / name)


def first_page(folder: Path) -> float:
    with studio(folder) as server:
        started = time.perf_counter()
        for path in ("/runs", "/style.css", "/studio.css", "/runs.js", "/studio.js", "/common.js", "/texts.js",
                     "/studio-texts.js", "/api/runs"):  # fmt: skip
            server.ask(path)
        return server.seconds + time.perf_counter() - started


def watched(folder: Path) -> float:
    """CPU seconds of a studio with one page open on a run, over those of the run."""
    write_rows(folder / "long.csv", 3000)
    with studio(folder) as server:
        server.ask("/api/recipe", "POST", {"rows": "long.csv"})
        server.ask("/api/runs", "POST", {"recipe": "long.yaml"})
        before, training = server.cpu_seconds(), 0.0
        while True:
            time.sleep(POLL_SECONDS)
            seen = server.ask("/api/run", run="long")
            if seen["process"] is not None:
                with suppress(psutil.NoSuchProcess):
                    training = seconds_of_process(psutil.Process(seen["process"]))
            if seen["state"] in ("done", "died"):
                break
        if seen["state"] == "died":
            raise SystemExit(f"the run died: {seen['cause']}")
        return (server.cpu_seconds() - before) / training


def upload(folder: Path) -> tuple[float, float]:
    """Largest memory in MB of server and readers, and seconds from the first byte to the first rows."""
    file = folder.parent / "large.csv"
    line = b'"the food was good and the room was clean, we come again in spring number %d",%s\n'
    with file.open("wb") as out:
        out.write(b"review,mood\n")
        number = 0
        while out.tell() < UPLOAD_BYTES:
            out.writelines(line % (number + more, b"pos" if more % 2 else b"neg") for more in range(10_000))
            number += 10_000
    with studio(folder) as server:
        server.ask("/api/settings")  # the reader is there
        largest, ends = 0, threading.Event()

        def look() -> None:
            nonlocal largest
            while not ends.wait(0.05):
                with suppress(psutil.Error):
                    largest = max(largest, server.memory_bytes())

        thread = threading.Thread(target=look)
        thread.start()
        started = time.perf_counter()
        headers = {"Authorization": f"Bearer {server.token}", "Content-Length": str(file.stat().st_size)}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        with file.open("rb") as content:
            connection.request("PUT", "/api/files?name=large.csv", content, headers)
            assert connection.getresponse().status == 201
        server.ask("/api/recipe", "POST", {"rows": "large.csv"})
        server.ask("/api/recipe/preview", name="large.yaml")
        seconds = time.perf_counter() - started
        ends.set()
        thread.join()
    file.unlink()
    return largest / 10**6, seconds


def answers(run: Path) -> Mapping[str, float]:
    card = json.loads((run / "scorecard.json").read_text())
    predictions = run / "predictions" / card["target"]["task"]
    for name in ("base", card["chosen_checkpoint"]):
        rows = (predictions / f"{name}.jsonl").read_text().splitlines()
        with (predictions / f"{name}.jsonl").open("w") as file:
            for number in range(ANSWERS):
                row = json.loads(rows[number % len(rows)])
                file.write(json.dumps({**row, "id": f"row:{number}", "correct": number % 3 == 0}) + "\n")
    with studio(run.parents[1]) as server:
        one = {"run": run.name}
        return {
            "filter of many answers": server.seconds_of("/api/run/answers", verdict="wrong", **one),
            "search in many answers": server.seconds_of("/api/run/answers", text="clean dirty", **one),
            "further page of many answers": server.seconds_of("/api/run/answers", text="clean dirty", first=40, **one),
        }


def measure(figures: list[str], runs: int, rounds: int) -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "studio"
        folder.mkdir()
        run = finished_run(folder)
        if "watched" in figures:
            yield "watched run", watched(folder)
        if "answers" in figures:
            yield from answers(run).items()
        if "upload" in figures:
            memory, seconds = upload(folder)
            yield "memory with a large file", memory
            yield "large file until its first rows", seconds
        if {"start", "list"} & set(figures):
            copy_runs(run, runs)
        if "start" in figures:
            yield "first page with many runs", statistics.median(first_page(folder) for _ in range(rounds))
        if "list" in figures:
            with studio(folder) as server:
                server.ask("/api/runs")
                timed: Callable[[str, Any], float] = lambda path, query: statistics.median(  # noqa: E731
                    server.seconds_of(path, **query) for _ in range(rounds)
                )
                yield "list of many runs", timed("/api/runs", {})
                yield "one of many runs", timed("/api/run", {"run": "copy-0007"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", default="start,list,watched,upload,answers", help="which to measure")
    parser.add_argument("--runs", type=int, default=500, help="runs in the folder of start and list")
    parser.add_argument("--rounds", type=int, default=5, help="times that start and list are measured")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found = []
    for name, value in measure(options.figures.split(","), options.runs, options.rounds):
        unit, reach = UNITS.get(name, "s"), REACH.get(name)
        print(f"{name:34} {value:8.4g} {unit}" + (f", reach {reach:g}" if reach is not None else ""), flush=True)
        found.append({"name": name, "ours": value, "peer": None, "peer_name": None, "ratio": None, "reach": reach,
                      "unit": unit})  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps({"figures": found}, indent=1) + "\n")
    return int(any(one["reach"] is not None and one["ours"] > one["reach"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
