"""The reader processes of a studio as its server asks them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from lotune.files import to_json
from lotune.studio.errors import CallError

MAX_READERS = 3
"""Number of processes, and so of requests that are answered at the same time."""
MAX_ANSWER_BYTES = 32 * 2**20
SECONDS = 600.0
"""Seconds after which a reader that has not answered is ended."""


@dataclass(eq=False)
class Readers:
    """Processes that read rows and recipes; each is started when it is needed, and stays for the next request."""

    folder: Path
    _idle: list[asyncio.subprocess.Process] = field(default_factory=list, init=False)
    _slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_READERS)

    async def ask(self, call: str, **request: Any) -> Any:
        """Return the result of a call.

        Raises: CallError as the call, or if the process was ended or takes too long.
        """
        async with self._slots:
            process = await self._reader()
            try:
                reply = await asyncio.wait_for(_exchange(process, {"call": call, **request}), SECONDS)
            except BaseException as error:
                # Its answer would be taken for that to another request.
                await _end(process)
                if isinstance(error, TimeoutError):
                    raise CallError(503, "too_slow", f"reading took longer than {SECONDS:.0f} s") from None
                if isinstance(error, EOFError | OSError | ValueError):
                    raise CallError(
                        503, "reader_ended", "the process that reads rows and recipes was ended",
                        "try again; the terminal of the studio says more",
                    ) from None  # fmt: skip
                raise
            self._idle.append(process)
        if "error" in reply:
            raise _RefusedError(reply["status"], reply["error"])
        return reply["result"]

    async def start(self) -> None:
        """Start a reader before the first request, and wait until it can answer."""
        with suppress(CallError):
            await self.ask("settings")

    async def close(self) -> None:
        """End all processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _reader(self) -> asyncio.subprocess.Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "lotune.studio.reader", str(self.folder), cwd=self.folder,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_ANSWER_BYTES,
            start_new_session=True,
        )  # fmt: skip


class _RefusedError(CallError):
    """An error that a reader has already put into the form of a response."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(status, error["code"], error["message"])
        self.error = error

    def body(self) -> dict[str, Any]:
        return {"error": self.error}


async def _exchange(process: asyncio.subprocess.Process, request: dict[str, Any]) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(to_json(request) + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return orjson.loads(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
