"""The commands of docs/how-to/serve.md, in their order, against the servers that the page starts."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from servers import Address, process
from test_docs import ROOT, commands, fenced

PAGE = ROOT / "docs" / "how-to" / "serve.md"
KEYS, *_ = fenced(PAGE, "text")
DOCUMENTED = "http://127.0.0.1:8000"
NOT_RUN = ("pip install", "lm_eval", "python benchmarks")
"""Beginnings of commands that no test runs here; tests/serve/test_clients.py runs lm_eval on rows of its own."""
SMALL = [
    "device=cpu", "base.dtype=float32", "task.max_new_tokens=8", "data.generated_rows=16", "data.validation_rows=2",
    "data.test_rows=2", "retention.rows=2", "retention.replay.rows=0", "retention.validation_rows=0", "tune.epochs=1",
    "checkpoints.count=1", "checkpoints.merge_check_rows=3", "name=demo",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run called demo."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("run", "demo", *SMALL, "task.scratchpad=false", status=0)
    (folder / "keys.txt").write_text(KEYS)
    return folder


def started(words: list[str], folder: Path) -> Any:
    """The server of a documented command, on a free port."""
    return process(*words[2:], "evaluate.dtype=float32" if "--quantize" not in words else "threads=1", folder=folder)


def carried_out(words: list[str], folder: Path) -> str:
    program = [sys.executable, "-m", "lotune"] if words[0] == "lotune" else [words[0]]
    done = subprocess.run(
        [*program, *words[1:]], cwd=folder, input="1 + 1 = ?\n", capture_output=True, text=True, timeout=300,
        env={**os.environ, "no_proxy": "127.0.0.1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def servers_and_requests() -> Iterator[tuple[list[str], list[list[str]]]]:
    """Each `lotune serve` of the page with the commands up to the next one."""
    server: list[str] = []
    requests: list[list[str]] = []
    for command in commands(PAGE):
        words = shlex.split(command)
        if words[:2] == ["lotune", "serve"]:
            if server:
                yield server, requests
            server, requests = words, []
        elif not command.startswith(NOT_RUN):
            requests.append(words)
    yield server, requests


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_of_the_page(folder: Path) -> None:
    seen: list[str] = []
    for server, requests in servers_and_requests():
        with started(server, folder) as address:
            seen += [" ".join(server), *(" ".join(words)[:40] for words in requests)]
            _check_server(address, server)
            for words in requests:
                here = [word.replace(DOCUMENTED, address.url) for word in words]
                if "--limit" in here:
                    here = [*here[:-1], "3", "task.max_new_tokens=8"]
                printed = carried_out(here, folder)
                assert printed.strip()
                assert "error" not in printed
    assert sum(line.startswith("lotune serve") for line in seen) == 5
    assert sum(line.startswith("curl") for line in seen) == 3


def _check_server(address: Address, words: list[str]) -> None:
    assert address.get("/health").json == {"status": "ok"}
    if "--keys" in words:
        assert address.get("/v1/models").status == 401
        key = KEYS.splitlines()[1].split()[1]
        assert address.get("/v1/models", {"Authorization": f"Bearer {key}"}).status == 200
        return
    names = [model["id"] for model in address.get("/v1/models").json["data"]]
    assert names == (["nano", "demo"] if "runs/demo" in words else ["nano"])
    assert address.get("/ui/chat").status == (200 if "--ui" in words else 404)


def test_the_program_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    [program] = fenced(PAGE, "python")
    with ExitStack() as stack:
        address = stack.enter_context(process("--model", "nano", "evaluate.dtype=float32", folder=folder))
        exec(compile(program.replace(DOCUMENTED, address.url), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_bounds_of_the_page_are_options() -> None:
    help = call("serve", "--help").stdout
    for option in ("--max-waiting", "--max-prompt-tokens", "--max-new-tokens", "--timeout", "--remote", "--flags"):
        assert option in help
