"""A studio: a folder, its runs, and the processes that work for its pages."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lotune.studio.answers import RunAnswers
from lotune.studio.dispatcher import Queue
from lotune.studio.jobs import JOBS, JobStore
from lotune.studio.readers import Readers
from lotune.studio.run_live import LiveRuns
from lotune.studio.run_states import DELETED, Runs
from lotune.studio.talk import Talk
from lotune.studio.verbs import Estimates
from lotune.studio.workspace import OWN_FOLDER, Workspace

LOOK_SECONDS = 1.0
"""Seconds between two looks whether the queue needs a process."""
SCRATCH = f"{OWN_FOLDER}/estimates"
"""Folder of the rows that an estimate prepares, below the studio's folder."""


@dataclass(eq=False)
class Studio:
    """Everything that the calls of a studio share."""

    workspace: Workspace
    jobs: JobStore = field(init=False)
    queue: Queue = field(init=False)
    runs: Runs = field(init=False)
    live: LiveRuns = field(default_factory=LiveRuns, init=False)
    answers: RunAnswers = field(default_factory=RunAnswers, init=False)
    readers: Readers = field(init=False)
    estimates: Estimates = field(init=False)
    talk: Talk = field(init=False)

    @classmethod
    def at(cls, folder: Path) -> Studio:
        """Return the studio of a folder."""
        return cls(Workspace.at(folder))

    def __post_init__(self) -> None:
        folder, own = self.workspace.folder, self.workspace.own
        self.jobs = JobStore(own / JOBS)
        self.queue, self.runs = Queue(folder, self.jobs), Runs(self.workspace, self.jobs)
        self.readers, self.talk = Readers(folder), Talk(folder, own)
        self.estimates = Estimates(folder, SCRATCH)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Keep the queue going, and a reader ready; at the end, only the queue and its runs go on."""
        await asyncio.to_thread(self._clear)
        tasks = [asyncio.create_task(self._keep_queue()), asyncio.create_task(self.readers.start())]
        try:
            yield
        finally:
            self.estimates.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.readers.close()
            await self.talk.close()

    def _clear(self) -> None:
        """Remove what a studio that was killed has left: its server, estimates, and what it was deleting."""
        self.talk.end_leftover()
        left = [self.workspace.folder / SCRATCH]
        for folder in (self.workspace.runs, self.jobs.folder):
            left += folder.glob(f"{DELETED}*")
        for path in left:
            shutil.rmtree(path, ignore_errors=True)

    async def _keep_queue(self) -> None:
        while True:
            with suppress(OSError):
                await asyncio.to_thread(self.queue.ensure)
            await asyncio.sleep(LOOK_SECONDS)
