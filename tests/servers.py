"""Servers for tests, in this process or in one of their own, and requests to them."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lotune.generate.answering_model import AnsweringModel
from lotune.serve.app import ServerOptions, build_app
from lotune.serve.gateway import Gateway
from lotune.serve.limits import Limits
from lotune.serve.listening import listening_socket
from lotune.serve.metrics import Metrics
from lotune.serve.models import Models, ServedModel
from lotune.serve.remote import RemoteModel
from lotune.serve.server import make_server

PATIENCE = 120.0


@dataclass(frozen=True)
class Reply:
    """A response: status, headers in lower case, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of each server-sent event before [DONE]."""
        parts = self.body.decode().split("\n\n")
        data = ["\n".join(line[6:] for line in part.split("\n") if line.startswith("data: ")) for part in parts]
        return [json.loads(text) for text in data if text and text != "[DONE]"]


@dataclass
class Address:
    """A running server; `gateway` is None if it runs in another process."""

    port: int
    gateway: Gateway | None = None
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with closing(self.connection()) as connection:
            connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read())

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        return self.send("POST", path, fields, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.send("GET", path, None, headers)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"lotune:{name}"))


@contextmanager
def running(
    served: Sequence[ServedModel],
    limits: Limits | None = None,
    options: ServerOptions | None = None,
    remotes: Sequence[RemoteModel] = (),
) -> Iterator[Address]:
    """Run a server in a thread of this process."""
    gateway = Gateway(Models(served, remotes), limits or Limits(), Metrics())
    gateway.metrics.watch(gateway.worker)
    bound, ready = listening_socket("127.0.0.1", 0), threading.Event()
    server = make_server(build_app(gateway, options or ServerOptions()), gateway, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield Address(bound.getsockname()[1], gateway)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def process(*words: object, folder: Path | None = None, verb: str = "serve") -> Iterator[Address]:
    """Run `lotune serve`, or another verb, in a process of its own on a free port; it must end well when told to."""
    command = [sys.executable, "-m", "lotune", verb, "--port", "0", *map(str, words)]
    started = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=folder, env={**os.environ}
    )
    address = Address(0, process=started)
    try:
        _wait_until_ready(address)
        yield address
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        _, rest = started.communicate(timeout=PATIENCE)
        address.log += rest.splitlines()
    assert started.returncode in (0, -signal.SIGTERM), address.log


def _wait_until_ready(address: Address) -> None:
    assert address.process is not None
    assert address.process.stderr is not None
    while select.select([address.process.stderr], [], [], PATIENCE)[0]:
        line = address.process.stderr.readline()
        address.log.append(line)
        if "ready on http://" in line:
            address.port = int(line.split("http://")[1].split("/")[0].rsplit(":", 1)[1])
            return
        assert line, f"the server ended: {address.log}"
    raise AssertionError(f"not ready in {PATIENCE:.0f} s: {address.log}")


def load(folder: Path, name: str = "small", *, prefix_cache_bytes: int = 2**26) -> ServedModel:
    """Return a model of a folder, in the template of its tokeniser or alpaca's."""
    from lotune.data.templates import TEMPLATES
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    base = load_model(BaseSettings(model=str(folder), dtype="float32"), "cpu")
    answering = AnsweringModel(base.model, base.tokenizer, prefix_cache_bytes=prefix_cache_bytes)
    return ServedModel(name, answering, TEMPLATES["alpaca"])
