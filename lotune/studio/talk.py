"""Talk to the base and the tuned model of a run: `lotune serve RUN --ui` in a process of its own, behind the studio.

One run is served at a time. Its server has a key that only the studio knows, and ends with it.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from fastapi import Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from lotune.files import write_json
from lotune.stages.served_runs import read_object
from lotune.studio.errors import CallError
from lotune.studio.jobs import command_line, process_record, running
from lotune.studio.verbs import error_of

READY = re.compile(r"ready on (http://[^/\s]+)")
START_SECONDS = 300.0
STOP_SECONDS = 5.0
ANSWER_SECONDS = 600.0
PASSED_HEADERS = ("content-type", "content-security-policy", "cache-control", "location", "x-content-type-options")
RECORD, KEY = "talk.json", "talk-key"


@dataclass(eq=False)
class Talk:
    """The server of the run that somebody talks to."""

    folder: Path
    own: Path
    """The folder for the studio's own files."""
    run: str = field(default="", init=False)
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _url: str = field(default="", init=False)
    _client: Any = field(default=None, init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _reading: asyncio.Task[None] | None = field(default=None, init=False)

    async def open(self, run: str, folder: Path) -> None:
        """Serve the models of a run, unless they are served already; those of another run no longer are.

        Raises: CallError with the server's words if it does not start.
        """
        async with self._lock:
            if self.run == run and self._process is not None and self._process.returncode is None:
                return
            await self._end()
            await self._start(run, folder)

    async def close(self) -> None:
        """End the server."""
        async with self._lock:
            await self._end()

    def end_leftover(self) -> None:
        """End the server of a studio that was killed."""
        if (process := running(read_object(self.own / RECORD))) is not None:
            with suppress(psutil.Error):
                process.terminate()
        (self.own / RECORD).unlink(missing_ok=True)

    async def _start(self, run: str, folder: Path) -> None:
        key = secrets.token_urlsafe(32)
        self.own.mkdir(parents=True, exist_ok=True)
        file = self.own / KEY
        with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as keys:
            keys.write(f"studio {key}\n")
        words = ["serve", str(folder.relative_to(self.folder)), "--ui", "--port", "0", "--keys", str(file)]
        process = await asyncio.create_subprocess_exec(
            *command_line(words), cwd=self.folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        with suppress(psutil.Error):
            write_json(self.own / RECORD, process_record(psutil.Process(process.pid)))
        try:
            self._url = await asyncio.wait_for(_address(process), START_SECONDS)
        except TimeoutError:
            await _stop(process)
            raise CallError(503, "not_started", "the models took too long to load") from None
        finally:
            file.unlink(missing_ok=True)
        self._process, self.run, self._client = process, run, _client(key)
        self._reading = asyncio.create_task(_drain(process))

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._process is not None:
            await _stop(self._process)
        if self._reading is not None:
            await self._reading
        (self.own / RECORD).unlink(missing_ok=True)
        self._process, self.run, self._client, self._reading = None, "", None, None

    async def pass_on(self, run: str, path: str, request: Request) -> Response:
        """Pass a request on to the server of a run, and its answer back as it comes.

        Raises: CallError if the models of the run are not served.
        """
        if self.run != run or self._client is None or self._process is None or self._process.returncode is not None:
            raise CallError(409, "not_served", f"the models of {run} are not loaded", "open the run and choose Talk")
        query = f"?{request.url.query}" if request.url.query else ""
        asked = self._client.build_request(
            request.method, f"{self._url}/{quote(path)}{query}", content=await request.body(),
            headers={"content-type": request.headers.get("content-type", "application/json")},
        )  # fmt: skip
        try:
            reply = await self._client.send(asked, stream=True)
        except Exception:  # of the HTTP library: the server is gone
            raise CallError(503, "not_served", f"the server of {run} does not answer", "choose Talk again") from None
        headers = {name: reply.headers[name] for name in PASSED_HEADERS if name in reply.headers}
        if headers.get("content-type", "").startswith("text/html"):
            content = (await reply.aread()).replace(b"<html ", f'<html data-home="{quote(run)}" '.encode(), 1)
            return Response(content, reply.status_code, headers)
        closing = BackgroundTask(reply.aclose)
        return StreamingResponse(reply.aiter_raw(), reply.status_code, headers, background=closing)


def _client(key: str) -> Any:
    from lotune.http_client import http_client  # it takes a while, and few want to talk

    return http_client(ANSWER_SECONDS, key)


async def _address(process: asyncio.subprocess.Process) -> str:
    """Return the address of a server once it is ready. Raises: CallError with its words if it ends instead."""
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said = (said + line)[-8_192:]
        if found := READY.search(line.decode("utf-8", "replace")):
            return found[1]
    await process.wait()
    raise CallError(422, "refused", error_of(said))


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read what a server prints, so that it can go on."""
    assert process.stderr is not None
    while await process.stderr.read(65_536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
    await process.wait()
