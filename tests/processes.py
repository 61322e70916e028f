"""Processes of Python that begin at once: they are forked from a server that has imported the libraries.

A process carries out a piece of code, like `python -c`. It can be held at a row of a file that it writes (`hold_at`),
so that a test stops it there and at no moment of the clock. Several can be ranks of one run, like those of torchrun.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

RUN_SCRIPT = """
import os, runpy, sys
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LOTUNE = "from lotune.cli.app import main\nmain()"


@dataclass(frozen=True)
class Ended:
    """What a process has left; a negative status is the signal that ended it."""

    returncode: int
    stdout: str
    stderr: str


class Process:
    """A process that carries out `code` with `words` in sys.argv and `variables` in its environment.

    With `hold_at`, the end of a file's name and a number, it waits where it has added so many rows to the file.
    """

    def __init__(
        self,
        code: str,
        words: Sequence[object],
        variables: Mapping[str, str] | None = None,
        hold_at: tuple[str, int] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._gate, other = multiprocessing.Pipe()
        context = _server()
        state = {**os.environ, **(variables or {})}
        streams = [str(self._folder / name) for name in ("out", "err")]
        arguments = (code, [str(word) for word in words], state, os.getcwd(), streams, hold_at, other)
        self._process = context.Process(target=_carry_out, args=arguments)
        self._process.start()
        other.close()

    def stop(self, number: signal.Signals) -> None:
        """Send a signal once the process waits at its row, and let it go on. Raises: AssertionError where it ended."""
        try:
            self._gate.recv()
        except EOFError:
            raise AssertionError(f"it ended before that row: {self.result()}") from None
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        if number != signal.SIGKILL:
            self._gate.send("on")

    def result(self) -> Ended:
        """What the process leaves, waited for; to be asked once."""
        self._process.join()
        self._gate.close()
        out, err = ((self._folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        shutil.rmtree(self._folder)
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, out, err)


@cache
def _server() -> Any:
    """The context whose server is running; of sys.path it knows what the environment says (Python 3.11)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()
    return context


def lotune(*words: object, hold_at: tuple[str, int] | None = None) -> Process:
    """A process of the command."""
    return Process(LOTUNE, ["lotune", *words], hold_at=hold_at)


def script(path: Path, *words: object, **variables: str) -> Ended:
    """What a script leaves."""
    return Process(RUN_SCRIPT, [path, *words], variables).result()


def ranks(code: str, words: Sequence[object], size: int = 2) -> Ended:
    """What several processes leave together that find one another as those of torchrun do.

    The status is that of the first one that failed. None is ended because another one was: they notice by themselves.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    where = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
    }  # fmt: skip
    started = [
        Process(code, words, {**where, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"})
        for rank in range(size)
    ]
    ended = [process.result() for process in started]
    status = next((item.returncode for item in ended if item.returncode), 0)
    return Ended(status, "".join(item.stdout for item in ended), "".join(item.stderr for item in ended))


def _carry_out(
    code: str,
    words: list[str],
    variables: dict[str, str],
    folder: str,
    streams: list[str],
    hold_at: tuple[str, int] | None,
    gate: Connection[Any, Any],
) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv[:] = words
    if hold_at is not None:
        _hold(*hold_at, gate)
    exec(compile(code, "<process>", "exec"), {"__name__": "__main__"})


def _hold(file: str, rows: int, gate: Connection[Any, Any]) -> None:
    """Have each module that adds rows to files wait after the so many-th one of a file."""
    from lotune import record_files

    append, left = record_files.append_record, [rows]

    def appending(path: Path, record: Any) -> None:
        append(path, record)
        if path.as_posix().endswith(file):
            left[0] -= 1
            if not left[0]:
                gate.send("there")
                gate.recv()

    for module in list(sys.modules.values()):
        if getattr(module, "append_record", None) is append:
            module.append_record = appending  # type: ignore[attr-defined]
