"""Studios for tests: in this process or in one of their own, asked with their token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from servers import PATIENCE, Address, Reply

from lotune.serve.listening import listening_socket
from lotune.studio.app import StudioOptions, build_app
from lotune.studio.server import make_server
from lotune.studio.studio import Studio

TOKEN = "t" * 40
PAUSE = 0.05
RECIPE = """\
# A recipe of somebody's own.
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}  # a small one
task: {{scratchpad: false, max_new_tokens: 8}}
data: {{generated_rows: 40, validation_rows: 6, test_rows: 6}}
adapter: {{rank: 2}}
tune: {{epochs: {epochs}, micro_batch_rows: 8, learning_rate: 0.01}}
checkpoints: {{count: 2, merge_check_rows: 3}}
retention: {{rows: 4, replay: {{rows: 0}}, validation_rows: 3}}
save_every_minutes: 0
"""
"""A tuning of five steps an epoch, which keeps its state after each."""


@dataclass
class StudioAddress(Address):
    """A running studio; its token is sent along unless other headers are given."""

    token: str = TOKEN
    studio: Studio | None = None

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        return super().send(method, path, body, {"Authorization": f"Bearer {self.token}", **(headers or {})})

    def call(self, method: str, path: str, *, status: int = 200, body: Any = None, **query: Any) -> Any:
        """Return the JSON of a call, which has to end with `status`."""
        words = f"?{urlencode(query, doseq=True)}" if query else ""
        reply = self.send(method, f"/api/{path}{words}", body)
        assert reply.status == status, reply.body[:2000]
        return reply.json

    def state(self, run: str) -> str:
        return str(self.call("GET", "run", run=run)["state"])

    def wait(self, run: str, *states: str) -> dict[str, Any]:
        """Return the picture of a run once it is in one of these states."""
        return wait_for(lambda: (seen := self.call("GET", "run", run=run))["state"] in states and seen)


def wait_for(found: Callable[[], Any]) -> Any:
    """Return what `found` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(PAUSE)
    raise AssertionError(f"not so in {PATIENCE:.0f} s")


@contextmanager
def studio_at(folder: Path, **options: Any) -> Iterator[StudioAddress]:
    """Run a studio in a thread of this process; at its end, its queue has ended, too."""
    studio = Studio.at(folder)
    bound, ready = listening_socket("127.0.0.1", 0), threading.Event()
    port = bound.getsockname()[1]
    app = build_app(studio, StudioOptions(TOKEN, port, **options))
    server = make_server(app, ready.set, uvicorn)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield StudioAddress(port, studio=studio)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        for job in studio.jobs:
            if job.state != "ended":
                job.stop()
        studio.queue.wait()
        assert not thread.is_alive()


def write_recipe(folder: Path, base: Path, name: str = "small", epochs: int = 1) -> str:
    """Write a recipe of a small run, and return the name of its file."""
    (folder / f"{name}.yaml").write_text(RECIPE.format(base=base, epochs=epochs))
    return f"{name}.yaml"


def write_rows(folder: Path, name: str = "mood.csv", rows: int = 60) -> str:
    """Write a file of labelled texts, and return its name."""
    lines = (
        f'"table {row} was {"warm" if row % 2 else "cold"}",{"pos" if row % 2 else "neg"}\n' for row in range(rows)
    )
    (folder / name).write_text("review,mood\n" + "".join(lines))
    return name
