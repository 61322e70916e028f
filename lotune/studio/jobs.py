"""Jobs: commands of lotune that the studio starts, each a process with a folder of its own.

A job's folder tells all about it, to any process and after any crash:

    job.json      the command, the run that it works on, when it was asked for
    claim         the process that starts or cancels it: whoever creates this file decides
    process.json  the process: its id and when it started, so that a later process of the same id is not taken for it
    output.txt    what it prints
    stop          somebody asked it to stop
    ended.json    its exit status and when it ended
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import orjson
import psutil

from lotune.errors import RunError
from lotune.files import read_json, write_json

JOBS = "jobs"
RUN_JOB = "run"
"""Kind of the jobs that wait for each other; others start at once."""
MAX_QUOTED_LINES, MAX_QUOTED_BYTES = 6, 4096
JobState = Literal["waiting", "running", "ended"]


@dataclass(frozen=True)
class Ended:
    """How a job ended: the exit status of its process (negative: a signal; None: unknown), and when.

    `stopped` tells whether somebody asked for it, `oom` whether the system ended a process for its memory meanwhile.
    """

    status: int | None
    at: float
    stopped: bool = False
    oom: bool = False


@dataclass(eq=False)
class Job:
    """A command of lotune in a process of its own."""

    folder: Path
    kind: str
    run: str
    """Name of the run that it works on."""
    words: Sequence[str]
    """Words of the command after `lotune`."""
    created: float
    _ended: Ended | None = field(default=None, init=False)

    @property
    def id(self) -> str:
        """The name of its folder; ids are in the order of creation."""
        return self.folder.name

    @property
    def command(self) -> str:
        """The command as it would be typed."""
        return shlex.join(["lotune", *self.words])

    @property
    def state(self) -> JobState:
        """Whether it waits, runs or has ended; a process that is gone without a record has ended."""
        if self.ended is not None:
            return "ended"
        return "running" if (self.folder / "claim").exists() else "waiting"

    @property
    def ended(self) -> Ended | None:
        """How it ended; None for one that waits or runs."""
        if self._ended is None:
            record = _record(self.folder / "ended.json")
            if record:
                self._ended = Ended(**{name: record[name] for name in Ended.__dataclass_fields__ if name in record})
            elif self.is_orphan:
                return Ended(None, self._last_change(), (self.folder / "stop").exists())
        return self._ended

    @property
    def process(self) -> psutil.Process | None:
        """The process while it runs; None before and after."""
        record = _record(self.folder / "process.json")
        return running(record) if record else None

    @cached_property
    def output(self) -> Path:
        """The file of what it prints."""
        return self.folder / "output.txt"

    def claim(self) -> bool:
        """Claim the job, to start or to cancel it; return whether nobody had done so."""
        record = self.folder / f"claim.{os.getpid()}"
        write_json(record, process_record(psutil.Process()))
        try:
            os.link(record, self.folder / "claim")  # fails if it exists, and is whole if it does not
        except FileExistsError:
            return False
        finally:
            record.unlink()
        return True

    def end(self, status: int | None, *, oom: bool = False) -> None:
        """Record that it has ended."""
        stopped = (self.folder / "stop").exists()
        write_json(self.folder / "ended.json", {"status": status, "at": time.time(), "stopped": stopped, "oom": oom})

    def stop(self) -> bool:
        """Stop the job as Ctrl-C would, or cancel it while it waits; return whether there was anything to stop."""
        (self.folder / "stop").touch()
        if self.claim():
            self.end(None)
            return True
        process = self.process
        if process is None:
            return False
        interrupt(process)
        return True

    def last_lines(self) -> list[str]:
        """Return the last lines that it printed."""
        return last_lines(self.output)

    @property
    def is_orphan(self) -> bool:
        """Return whether neither its process runs nor the one that claimed it, which would record its end."""
        claim = _record(self.folder / "claim")
        return bool(claim) and running(claim) is None and self.process is None

    def _last_change(self) -> float:
        times = []
        for name in ("claim", "output.txt", "process.json"):
            with suppress(OSError):
                times.append((self.folder / name).stat().st_mtime)
        return max(times, default=self.created)


@dataclass(eq=False)
class JobStore:
    """The jobs of a studio, in the order of their creation."""

    folder: Path
    _known: dict[str, Job] = field(default_factory=dict, init=False)

    def add(self, kind: str, run: str, words: Sequence[str]) -> Job:
        """Write a job that waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = time.time_ns()  # no number is used twice, also if the latest job is deleted
        while True:
            folder = self.folder / f"{number:020d}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
            number += 1
        created = time.time()
        write_json(folder / "job.json", {"kind": kind, "run": run, "words": list(words), "created": created})
        return Job(folder, kind, run, tuple(words), created)

    def __iter__(self) -> Iterator[Job]:
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.isdigit())
        except OSError:
            return
        for name in names:
            if (job := self._job(name)) is not None:
                yield job

    def latest(self) -> dict[str, Job]:
        """Return the latest job of the kind RUN_JOB of each run."""
        return {job.run: job for job in self if job.kind == RUN_JOB}

    def of_run(self, run: str) -> list[Job]:
        """Return the jobs of a run."""
        return [job for job in self if job.run == run]

    def _job(self, name: str) -> Job | None:
        job = self._known.get(name)
        if job is None and (record := _record(self.folder / name / "job.json")):
            words, created = tuple(record["words"]), float(record["created"])
            job = Job(self.folder / name, record["kind"], record["run"], words, created)
            self._known[name] = job
        return job

    def forget(self, job: Job) -> None:
        """Keep a deleted job no longer."""
        self._known.pop(job.id, None)


def command_line(words: Sequence[str]) -> list[str]:
    """Return a command of lotune as the arguments of a process."""
    # -P: a file of rows' folder that is called like a module, such as random.py, must not be imported.
    return [sys.executable, "-P", "-m", "lotune", *words]


def process_record(process: psutil.Process) -> dict[str, Any]:
    """Return what identifies a process."""
    return {"pid": process.pid, "started": process.create_time()}


def running(record: Mapping[str, Any]) -> psutil.Process | None:
    """Return the process of a record if it still runs."""
    try:
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError):
        return None
    return process if same else None


def interrupt(process: psutil.Process) -> None:
    """Interrupt a process as Ctrl-C does."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(getattr(signal, "CTRL_C_EVENT", signal.SIGINT))  # its name on Windows


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a file, without blank ones."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_QUOTED_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-MAX_QUOTED_LINES:]


def _record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (RunError, orjson.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}
