"""A server that is killed while people vote loses no confirmed vote, and doubles none."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from servers import process

from lotune.arena.store import VoteStore

CLIENTS = 50


def vote_until_killed(server: object, goal: int, confirmed: dict[str, str], number: int, done: threading.Event) -> None:
    """Start battles and vote, as one person, until the server is gone; note each confirmed vote."""
    headers: dict[str, str] = {}
    verdicts = ("model_a", "model_b", "tie", "both_bad")
    with suppress(OSError, HTTPException, ValueError, KeyError):
        while True:
            start = server.post("/ui/arena/battles", headers)  # type: ignore[attr-defined]
            headers["Cookie"] = headers.get("Cookie") or start.headers["set-cookie"].split(";")[0]
            battle = start.json["battle"]
            turn = server.post(f"/ui/arena/battles/{battle}/turns", headers, prompt="1?")  # type: ignore[attr-defined]
            if turn.events[-1] != {"failed": False}:
                continue
            verdict = verdicts[(number + len(confirmed)) % 4]
            if server.post(f"/ui/arena/battles/{battle}/vote", headers, verdict=verdict).status == 200:  # type: ignore[attr-defined]
                confirmed[battle] = verdict
                if len(confirmed) >= goal:
                    done.set()


def kill_while_voting(folder: Path, base: Path, kills: int, clients: int) -> None:
    (folder / "opponents.yaml").write_text(
        f"opponents:\n- {{name: one, model: {base}}}\n- {{name: two, model: {base}}}\n"
    )
    file, confirmed = folder / "votes.sqlite", dict[str, str]()
    options = ("--opponents", folder / "opponents.yaml", "--votes", file, "--max-new-tokens", 2, "--battles", 10_000)
    for number in range(kills):
        done, goal = threading.Event(), len(confirmed) + clients // 2
        with suppress(AssertionError, subprocess.TimeoutExpired), process(*options, verb="arena") as server:
            people = [
                threading.Thread(target=vote_until_killed, args=(server, goal, confirmed, person, done))
                for person in range(clients)
            ]
            for person in people:
                person.start()
            assert done.wait(120)
            assert server.process is not None
            server.process.send_signal(signal.SIGKILL)
            for person in people:
                person.join(120)
        assert len(confirmed) >= goal, f"kill {number}"
    stored = {vote.battle: vote.verdict for vote in VoteStore(file).votes()}
    assert {battle: stored.get(battle) for battle in confirmed} == confirmed
    assert max(Counter(vote.battle for vote in VoteStore(file).votes()).values()) == 1
    assert len(stored) <= len(confirmed) + clients * kills  # written, but killed before the confirmation


@pytest.mark.slow
def test_a_kill_loses_no_confirmed_vote(tmp_path: Path, small_base: Path) -> None:
    kill_while_voting(tmp_path, small_base, 1, 8)


@pytest.mark.soak
def test_twenty_kills_lose_no_confirmed_vote(tmp_path: Path, small_base: Path) -> None:
    kill_while_voting(tmp_path, small_base, 20, CLIENTS)
