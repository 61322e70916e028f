"""The commands of docs/how-to/arena.md and synthesis.md, in their order, against a server of their own."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chat_server import FakeServer, article
from command_line import call
from servers import process
from test_docs import ROOT, commands, fenced

ARENA, SYNTHESIS = (ROOT / "docs" / "how-to" / f"{name}.md" for name in ("arena", "synthesis"))
NOT_RUN = ("pip install", "lotune arena --opponents", "lotune serve", "lotune arena judge")
ADMIN = "the-administrator's-key"


def test_the_arena_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_base: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOSTED_KEY", "a-key")
    [opponents] = fenced(ARENA, "yaml")
    Path("opponents.yaml").write_text(opponents.replace("model: runs/demo", f"model: {small_base}"))
    Path("keys.txt").write_text(f"admin {ADMIN}\n")
    options = ("--opponents", "opponents.yaml", "--votes", "votes.sqlite")
    key = {"Authorization": f"Bearer {ADMIN}"}
    Path("questions.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    with process(*options, verb="arena") as server:
        [judged] = (shlex.split(line)[1:] for line in commands(ARENA) if line.startswith("lotune arena judge"))
        call(*(word.replace("http://127.0.0.1:8000", server.url) for word in judged), status=0)
    with process(*options, "--keys", "keys.txt", verb="arena") as server:
        [add] = (shlex.split(line) for line in commands(ARENA) if line.startswith("curl"))
        words = [word.replace("http://127.0.0.1:8000", server.url).replace("KEY", ADMIN) for word in add]
        if shutil.which("curl"):
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)["opponents"][-1] == "new"
        listed = server.get("/ui/arena/opponents", key).json["opponents"]
        assert [one["name"] for one in listed][:4] == ["nano", "demo", "laptop-of-ann", "hosted"]
        assert server.get("/ui/arena").status == 200
        assert server.get("/ui/arena/leaderboard.json", key).json["votes"] == 0
    for line in commands(ARENA):
        if not line.startswith((*NOT_RUN, "curl")):
            call(*shlex.split(line)[1:], status=0)
    assert Path("leaderboard.svg").read_text().startswith("<svg")
    assert Path("all-votes.sqlite").exists()


def test_the_synthesis_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, rules = fenced(SYNTHESIS, "yaml")
    Path("articles").mkdir()
    lines = [json.dumps({"text": article(number)}) for number in range(30)]
    Path("articles", "some.jsonl").write_text("\n".join(lines))
    with FakeServer().running() as server:
        Path("synthesis.yaml").write_text(f"{recipe}{rules}".replace("http://127.0.0.1:8000", server.url))
        for line in commands(SYNTHESIS):
            done = subprocess.run([sys.executable, "-m", *shlex.split(line)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert len(Path("synthesis/pairs.jsonl").read_text().splitlines()) == 90
    assert yaml.safe_load(Path("pairs.yaml").read_text())["task"]["columns"] == {
        "instruction": "question", "output": "answer",
    }  # fmt: skip
