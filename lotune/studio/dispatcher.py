"""The process that starts the jobs of a studio and records how they end.

It outlives the server, so that a queue goes on without it, and it ends when nothing waits or runs. Only one works on a
folder; if it is killed, its jobs go on, and the next one takes over.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lotune.errors import LotuneError, RunError
from lotune.files import read_json, write_json
from lotune.runs import lock_file, running_process
from lotune.studio.jobs import JOBS, RUN_JOB, Job, JobStore, command_line, process_record
from lotune.studio.workspace import OWN_FOLDER

QUEUE_FILE, QUEUE_LOCK = "queue.json", "queue.lock"
SECONDS = 0.25
"""Seconds between two looks at the jobs."""
IDLE_SECONDS = 1.0
"""Seconds without a job after which the process ends."""
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


@dataclass(eq=False)
class Dispatcher:
    """The jobs of a folder, and the processes that this one has started."""

    folder: Path
    """The folder of the studio."""
    jobs: JobStore
    _children: dict[str, tuple[Job, subprocess.Popen[bytes], int]] = field(default_factory=dict, init=False)
    _done: set[str] = field(default_factory=set, init=False)

    def look(self) -> bool:
        """Record which jobs have ended, start those whose turn it is; return whether any job waits or runs."""
        self._reap()
        pending = [job for job in self.jobs if job.id not in self._done]
        states = {job.id: job.state for job in pending}
        for job in pending:
            if states[job.id] == "ended" and (
                not job.is_orphan or _ended(job, None)
            ):  # of a dispatcher that was killed
                self._done.add(job.id)
        free = at_once(self.folder) - sum(states[job.id] == "running" and job.kind == RUN_JOB for job in pending)
        for job in pending:
            if states[job.id] == "waiting" and (job.kind != RUN_JOB or free > 0):
                free -= job.kind == RUN_JOB
                self._start(job)
        return any(state != "ended" for state in states.values())

    def _start(self, job: Job) -> None:
        try:
            if not job.claim():  # it was cancelled
                return
            with job.output.open("ab") as output:
                child = subprocess.Popen(
                    command_line(job.words), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except (OSError, RunError):  # of a full disk, for example: it waits on
            return
        self._children[job.id] = (job, child, oom_kills())
        with suppress(OSError, RunError, psutil.Error):
            write_json(job.folder / "process.json", process_record(psutil.Process(child.pid)))

    def _reap(self) -> None:
        for id, (job, child, kills) in list(self._children.items()):
            status = child.poll()
            # While the disk is full, the status is kept, and written once there is space.
            if status is not None and _ended(job, status, oom=status == -signal.SIGKILL and oom_kills() > kills):
                del self._children[id]


def _ended(job: Job, status: int | None, *, oom: bool = False) -> bool:
    """Record that a job has ended; return whether there was space for it."""
    try:
        job.end(status, oom=oom)
    except (OSError, RunError):
        return False
    return True


def dispatch(folder: Path) -> None:
    """Start the jobs of a folder until none waits or runs; return at once if another process does so."""
    own = folder / OWN_FOLDER
    dispatcher = Dispatcher(folder, JobStore(own / JOBS))
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_file(own / QUEUE_LOCK))
        except RunError:
            return  # another one is at work
        idle = time.monotonic()
        while time.monotonic() - idle < IDLE_SECONDS:
            if dispatcher.look():
                idle = time.monotonic()
            time.sleep(SECONDS)


@dataclass(eq=False)
class Queue:
    """The queue of a studio as its server sees it."""

    folder: Path
    jobs: JobStore
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def add(self, kind: str, run: str, words: Sequence[str]) -> Job:
        """Add a job, which starts when its turn comes."""
        job = self.jobs.add(kind, run, words)
        self.ensure()
        return job

    def ensure(self) -> None:
        """Start a process that dispatches the jobs unless one runs or none is needed; it outlives this process."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        if running_process(self.folder / OWN_FOLDER, QUEUE_LOCK) or not any(job.state != "ended" for job in self.jobs):
            return
        # Ctrl-C in the terminal of the server must end neither the queue nor the runs: a session of its own.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lotune.studio.dispatcher", str(self.folder)], cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until the process that this one has started ends, which it does when no job is left."""
        if self._process is not None:
            self._process.wait()


def at_once(folder: Path) -> int:
    """Return how many runs may work at the same time."""
    try:
        return max(1, int(_settings(folder)["at_once"]))
    except (LotuneError, KeyError, TypeError, ValueError):
        return 1


def set_at_once(folder: Path, number: int) -> None:
    """Set how many runs may work at the same time."""
    write_json(folder / OWN_FOLDER / QUEUE_FILE, {"at_once": number})


def _settings(folder: Path) -> Any:
    return read_json(folder / OWN_FOLDER / QUEUE_FILE)


def oom_kills() -> int:
    """Return how many processes the system has ended for their memory, of this container or machine; 0 if unknown."""
    for path in OOM_COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdigit():
                return int(count)
    return 0


def main() -> None:
    """Dispatch the jobs of the folder that is named on the command line."""
    # A shell starts background processes with Ctrl-C ignored, and jobs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dispatch(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
