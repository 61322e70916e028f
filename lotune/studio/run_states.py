"""The runs of a folder and the state of each, read from its files, its process and the job that started it."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from lotune.errors import LotuneError
from lotune.runs import Run, running_process
from lotune.stages.served_runs import scorecard_figures
from lotune.studio.errors import CallError, not_found
from lotune.studio.jobs import Ended, Job, JobStore, running
from lotune.studio.workspace import Workspace, file_stamp

StateName = Literal["waiting", "running", "stopping", "stopped", "died", "out_of_memory", "done"]
ACTIVE: Sequence[StateName] = ("waiting", "running", "stopping")
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""
RAN_OUT = re.compile(r"memory: ran out|[\w.]+: memory ran out")
"""How an error about memory begins."""
DELETED = ".deleted-"
"""Beginning of the name of a folder that is being deleted."""
FILES = ("recipe.yaml", "stages.json", "scorecard.json")


@dataclass(frozen=True)
class RunState:
    """What a run does, and why it ended.

    `cause` has the last lines that it printed before it died, `why` what its end means.
    """

    name: StateName
    process: int | None = None
    why: str = ""
    cause: Sequence[str] = ()


@dataclass(eq=False)
class Runs:
    """The runs of a workspace: the folders below `runs`, and the jobs that have none yet."""

    workspace: Workspace
    jobs: JobStore
    _figures: dict[str, tuple[Any, Mapping[str, Any]]] = field(default_factory=dict, init=False)

    def names(self) -> list[str]:
        """Return the names of the runs."""
        folders = (path.name for path in self._folders())
        return sorted({*folders, *self.jobs.latest()})

    def rows(self) -> list[dict[str, Any]]:
        """Return name, state and figures of each run, the latest first."""
        latest = self.jobs.latest()
        folders = {path.name: path for path in self._folders()}
        rows = [self._row(name, folders.get(name), latest.get(name)) for name in {*folders, *latest}]
        return sorted(rows, key=lambda row: (-row["at"], row["name"]))

    def row(self, name: str) -> dict[str, Any]:
        """Return name, state and figures of a run. Raises: CallError if there is no such run."""
        return self._row(name, *self.find(name))

    def state(self, name: str) -> RunState:
        """Return the state of a run. Raises: CallError if there is no such run."""
        folder, job = self.find(name)
        return state_of(folder, job)

    def find(self, name: str) -> tuple[Path | None, Job | None]:
        """Return the folder and the latest job of a run, one of which may be None.

        Raises: CallError if there is neither.
        """
        path, job = self.workspace.run(name), self.jobs.latest().get(name)
        folder = path if is_run(path) and self.workspace.contains(path) else None
        if folder is None and job is None:
            raise not_found(f"the run {name}")
        return folder, job

    def folder(self, name: str) -> Path:
        """Return the folder of a run. Raises: CallError if it has none."""
        folder, _ = self.find(name)
        if folder is None:
            raise CallError(409, "not_started", f"the run {name} has written nothing yet")
        return folder

    def delete(self, name: str) -> None:
        """Delete the folder of a run and what the studio keeps about it; of a link, the link alone.

        Raises: CallError for a run that is at work.
        """
        folder, latest = self.find(name)
        if state_of(folder, latest).name in ACTIVE:
            raise CallError(409, "at_work", f"the run {name} is waiting or at work", "stop it first")
        if folder is not None:
            if folder.is_symlink():
                folder.unlink()
            else:
                _remove(folder)
        for job in self.jobs.of_run(name):
            _remove(job.folder)
            self.jobs.forget(job)
        self._figures.pop(name, None)

    def _folders(self) -> list[Path]:
        with suppress(OSError):
            return [path for path in self.workspace.runs.iterdir() if is_run(path) and self.workspace.contains(path)]
        return []

    def _row(self, name: str, folder: Path | None, job: Job | None) -> dict[str, Any]:
        state = state_of(folder, job)
        figures = self._figures_of(name, folder) if folder is not None else {}
        at = max(job.created if job is not None else 0.0, figures.get("at", 0.0))
        return {**figures, "name": name, "state": state.name, "why": state.why, "at": at}

    def _figures_of(self, name: str, folder: Path) -> Mapping[str, Any]:
        stamp = tuple(file_stamp(folder / file) for file in FILES)
        known = self._figures.get(name)
        if known is None or known[0] != stamp:
            at = max((float(one[0]) / 1e9 for one in stamp if one), default=0.0)
            known = (stamp, {**scorecard_figures(folder), "at": at})
            self._figures[name] = known
        return known[1]


def is_run(path: Path) -> bool:
    """Return whether a path is the folder of a run; hidden folders are not."""
    return not path.name.startswith(".") and (path / "recipe.yaml").is_file()


def state_of(folder: Path | None, job: Job | None) -> RunState:
    """Return the state of a run with this folder and this latest job, one of which may be None."""
    holder = running_process(folder) if folder is not None else None
    if holder is not None:
        stopping = job is not None and (job.folder / "stop").exists() and job.state == "running"
        return RunState("stopping" if stopping else "running", int(holder) if holder.isdigit() else None)
    if job is not None and (state := job.state) != "ended":
        if state == "waiting":
            return RunState("waiting")
        process = job.process
        stopping = (job.folder / "stop").exists()
        return RunState("stopping" if stopping else "running", process.pid if process is not None else None)
    if folder is not None and is_finished(folder):
        return RunState("done")
    if job is None or job.ended is None:
        return RunState("stopped")
    return _ended_state(job, job.ended)


def _ended_state(job: Job, ended: Ended) -> RunState:
    """Return the state of a run that is not finished, from how its job ended."""
    lines = job.last_lines()
    if ended.stopped or ended.status == INTERRUPTED:
        return RunState("stopped")
    if ended.oom or any(RAN_OUT.match(line) for line in lines):
        why = "the system ended it, as memory ran out" if ended.oom else "memory ran out"
        return RunState("out_of_memory", why=why, cause=lines)
    if ended.status is None:
        return RunState("died", why="its process is gone and left no exit status", cause=lines)
    if ended.status < 0:
        name = signal.Signals(-ended.status).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return RunState("died", why=f"it was ended by the signal {name}{hint}", cause=lines)
    if ended.status == 0:
        return RunState("stopped")
    return RunState("died", why=f"it ended with the exit status {ended.status}", cause=lines)


def is_finished(folder: Path) -> bool:
    """Return whether a run has its result: a scorecard, or the model of a pre-training."""
    try:
        stages = Run(folder).stages().keys()
    except (LotuneError, ValueError):
        return False
    return "evaluate" in stages or ("pretrain" in stages and "tune" not in stages and "prepare" not in stages)


def process_of(folder: Path) -> psutil.Process | None:
    """Return the process that works on a run; None if there is none, or if it cannot be told."""
    holder = running_process(folder)
    if holder is None or not holder.isdigit():
        return None
    with suppress(psutil.Error):
        process = psutil.Process(int(holder))
        return running({"pid": process.pid, "started": process.create_time()})
    return None


def _remove(folder: Path) -> None:
    """Remove a folder: at once for who looks, and its files in the background."""
    gone = folder.with_name(f"{DELETED}{folder.name}-{threading.get_native_id()}")
    folder.rename(gone)
    threading.Thread(target=shutil.rmtree, args=(gone,), kwargs={"ignore_errors": True}).start()
