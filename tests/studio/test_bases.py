"""The size of a model on the hub is told before anything of it is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ASKED: list[str] = []
FILES = [
    {"rfilename": "model.safetensors", "size": 988_000_000}, {"rfilename": "config.json", "size": 700},
    {"rfilename": "tokenizer.json", "size": 7_000_000}, {"rfilename": "pytorch_model.bin", "size": 988_000_000},
    {"rfilename": "onnx/model.safetensors", "size": 5}, {"rfilename": "README.md", "size": 4_000},
]  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as telling a size needs."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        name = self.path.partition("?")[0].removeprefix("/api/models/")
        models: dict[str, Any] = {"us/small": FILES, "us/pickled": FILES[3:]}
        found = name in models
        body = json.dumps(
            {"id": name, "siblings": models.get(name, [])} if found else {"error": "Repository not found"}
        )
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[str]:
    ASKED.clear()
    hub = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{hub.server_port}"
    hub.shutdown()
    thread.join()
    hub.server_close()


def hub_base(name: str, endpoint: str, home: Path) -> dict[str, Any]:
    """What is told of a model, in a process that reads HF_ENDPOINT when it starts."""
    program = f"""
import json
from lotune.studio.bases import hub_base
from lotune.studio.errors import CallError
try:
    print(json.dumps(hub_base({name!r})))
except CallError as error:
    print(json.dumps({{**error.body()["error"], "status": error.status}}))
"""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_size_is_that_of_what_would_be_fetched(endpoint: str, tmp_path: Path) -> None:
    found = hub_base("us/small", endpoint, tmp_path)
    assert found == {"name": "us/small", "kind": "hub", "bytes": 995_000_700, "fetched": False}
    assert not any("resolve" in path for path in ASKED)  # no file was asked for
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("name", "status", "words"), [
    ("us/none", 502, "no model of that name"), ("us/pickled", 422, "no safetensors"), ("../x", 400, "no name"),
    ("small", 400, "no name"),
])  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_in_words(
    endpoint: str, tmp_path: Path, name: str, status: int, words: str
) -> None:
    found = hub_base(name, endpoint, tmp_path)
    assert found["status"] == status
    assert words in found["message"]


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    found = hub_base("us/small", "http://127.0.0.1:9", tmp_path)
    assert (found["status"], found["code"]) == (502, "hub")
    assert "cannot be reached" in found["message"]
