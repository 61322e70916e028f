"""Nothing is lost, and nothing is shown as running that does not run, whoever is killed when."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from browsers import browser_test, opened
from servers import PATIENCE, _wait_until_ready
from studios import StudioAddress, wait_for, write_recipe

from lotune.files import read_json

ACTIVE = ("waiting", "running", "stopping")


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_studio_is_left() -> Iterator[None]:
    yield
    while STARTED:
        if (process := STARTED.pop()).poll() is None:  # the test has failed
            process.terminate()
            process.communicate()


def start_studio(folder: Path, port: int = 0) -> StudioAddress:
    words = [sys.executable, "-m", "lotune", "studio", str(folder), "--port", str(port), "--no-browser"]
    return started(words, folder)


def started(words: list[str], folder: Path) -> StudioAddress:
    STARTED.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
    address = StudioAddress(0, process=STARTED[-1])
    _wait_until_ready(address)
    address.token = (folder / ".lotune" / "token").read_text().strip()
    return address


def end(address: StudioAddress, number: int) -> None:
    assert address.process is not None
    address.process.send_signal(number)
    address.process.communicate(timeout=PATIENCE)


@contextmanager
def undisturbed(folder: Path, recipe: str) -> Iterator[dict[str, Any]]:
    """The scorecard of the same recipe, run without a studio."""
    subprocess.run(
        [sys.executable, "-m", "lotune", "run", recipe, "runs=alone"], cwd=folder, check=True, capture_output=True
    )
    yield read_json(folder / "alone" / Path(recipe).stem / "scorecard.json")


def is_true(server: StudioAddress, run: str) -> None:
    """A run that is shown as running has a living process, and the shown steps are in its file."""
    seen = server.call("GET", "run", run=run)
    if seen["state"] == "running" and seen["process"] is not None:
        alive = psutil.pid_exists(seen["process"]) and psutil.Process(seen["process"]).status() != psutil.STATUS_ZOMBIE
        assert alive or server.state(run) != "running"  # it may have ended between the two looks


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_kills_of_server_and_run(small_base: Path, tmp_path: Path, kills: int) -> None:
    draw = random.Random(kills)
    shutil.copytree(small_base, tmp_path / "base")
    recipe = write_recipe(tmp_path, Path("base"), "killed", 5 * kills)
    with undisturbed(tmp_path, recipe) as alone:
        server = start_studio(tmp_path)
        server.call("POST", "runs", status=201, body={"recipe": recipe})
        for number in range(kills):
            time.sleep(draw.uniform(0.2, 3.0))
            is_true(server, "killed")
            if number % 2 == 0:
                end(server, signal.SIGKILL)
                server = start_studio(tmp_path, server.port)
                is_true(server, "killed")
            elif (process := server.call("GET", "run", run="killed")["process"]) is not None:
                os.kill(process, signal.SIGKILL)
                died = server.wait("killed", "died", "done")
                if died["state"] == "died":
                    assert "SIGKILL" in died["why"] or "no exit status" in died["why"]
                    server.call("POST", "run/continue", status=201, body={"run": "killed"})
        if server.wait("killed", "done", "died")["state"] == "died":
            server.call("POST", "run/continue", status=201, body={"run": "killed"})
            server.wait("killed", "done")
        end(server, signal.SIGTERM)
        card = read_json(tmp_path / "runs" / "killed" / "scorecard.json")
        for name in ("target", "retention", "parameters", "checkpoints", "chosen_checkpoint"):
            assert card[name] == alone[name]


def shown_step(page: Any) -> int:
    found = re.search(r"step ([0-9,]+)", page.locator("#pace").inner_text())
    return int(found[1].replace(",", "")) if found else 0


@browser_test
@pytest.mark.soak
def test_reloads_show_what_is_there(browser: Any, small_base: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    shutil.copytree(small_base, tmp_path / "base")
    server = start_studio(tmp_path)
    server.call("POST", "runs", status=201, body={"recipe": write_recipe(tmp_path, Path("base"), "watched", 100)})
    with opened(browser, server, f"/run?run=watched&token={server.token}") as page:
        for _ in range(20):
            time.sleep(draw.uniform(0, 2.0))
            page.reload()
            page.locator("#state").get_by_text("ing").or_(page.locator("#state").get_by_text("done")).wait_for()
            before = server.call("GET", "run", run="watched").get("step", 0)
            wait_for(lambda before=before: shown_step(page) >= before or page.locator("#state").inner_text() == "done")
    server.post("/api/run/stop", run="watched")  # it may have ended
    server.wait("watched", "stopped", "done")
    end(server, signal.SIGTERM)


@pytest.mark.soak
def test_memory_that_runs_out_is_named(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run gets less memory than PyTorch needs: a limit of the process, which its children inherit."""
    shutil.copytree(small_base, tmp_path / "base")
    limit = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
sys.argv = ["studio", "studio", {str(tmp_path)!r}, "--port", "0", "--no-browser"]
runpy.run_module("lotune", run_name="__main__")
"""
    recipe = write_recipe(tmp_path, Path("base"), "large", 4)
    text = (tmp_path / recipe).read_text().replace("generated_rows: 40", "generated_rows: 6000")
    step = "micro_batch_rows: 6000, max_batch_tokens: 10000000"
    (tmp_path / recipe).write_text(text.replace("micro_batch_rows: 8", step))
    server = started([sys.executable, "-c", limit], tmp_path)
    server.call("POST", "runs", status=201, body={"recipe": recipe})
    seen = server.wait("large", "out_of_memory", "died", "done")
    end(server, signal.SIGTERM)
    assert seen["state"] == "out_of_memory", seen["cause"]
    assert seen["why"] == "memory ran out"


def test_a_full_disk_is_named(small_base: Path, tmp_path: Path) -> None:
    """No file of the studio and its runs may grow beyond a limit, as on a disk that is full."""
    shutil.copytree(small_base, tmp_path / "base")
    recipe = write_recipe(tmp_path, Path("base"), "full")
    limit = f"""
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
sys.argv = ["studio", "studio", {str(tmp_path)!r}, "--port", "0", "--no-browser"]
runpy.run_module("lotune", run_name="__main__")
"""
    server = started([sys.executable, "-c", limit], tmp_path)
    refused = server.send("PUT", "/api/files?name=rows.csv", b"a,b\n" * 5000)
    assert (refused.status, refused.json["error"]["code"]) == (507, "disk_full")
    assert not (tmp_path / "rows.csv").exists()
    server.call("POST", "runs", status=201, body={"recipe": recipe})
    died = server.wait("full", "died", "done")
    end(server, signal.SIGTERM)
    assert died["state"] == "died"
    assert any("cannot be written" in line for line in died["cause"])
