"""Battles over HTTP: blind until the vote, one vote each, failed models count for nothing; the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import DESKTOP, PHONE, browser_test, opened
from servers import Address, load, running

from lotune.arena.battles import Arena, BattleError, Opponent
from lotune.arena.store import VoteStore
from lotune.data.templates import TEMPLATES
from lotune.serve.app import ServerOptions
from lotune.serve.arena_app import ArenaOptions
from lotune.serve.keys import read_keys
from lotune.serve.models import ServedModel
from lotune.serve.pages_app import PageOptions
from lotune.serve.remote import remote_model

SETTINGS = {"temperature": 0, "max_tokens": 6}
ADMIN, PERSON = "the-administrator's-key", "the-key-of-a-person"


@pytest.fixture(scope="module")
def models(small_base: Path) -> list[ServedModel]:
    first = load(small_base, "first-model")
    return [first, ServedModel("second-model", first.answering, TEMPLATES["plain"])]


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    opponents = [Opponent("first-model", "digest-1", "alpaca"), Opponent("second-model", "", "plain")]
    return Arena(opponents, VoteStore(tmp_path / "votes.sqlite"), SETTINGS, seed=1)


@pytest.fixture
def server(models: list[ServedModel], arena: Arena) -> Iterator[Address]:
    pages = PageOptions(arena=arena, arena_options=ArenaOptions(stall_seconds=5, per_minute=12))
    with running(models, options=ServerOptions(pages=pages)) as address:
        yield address


class Person:
    """A visitor with a cookie."""

    def __init__(self, server: Address) -> None:
        self.server, self.headers = server, dict[str, str]()

    def start(self) -> Any:
        reply = self.server.post("/ui/arena/battles", self.headers)
        if cookie := reply.headers.get("set-cookie"):
            assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
            self.headers["Cookie"] = cookie.split(";")[0]
        return reply

    def ask(self, battle: str, prompt: str = "1 + 1?") -> Any:
        return self.server.post(f"/ui/arena/battles/{battle}/turns", self.headers, prompt=prompt)

    def vote(self, battle: str, verdict: str = "model_a") -> Any:
        return self.server.post(f"/ui/arena/battles/{battle}/vote", self.headers, verdict=verdict)


def answer(server: Address, model: str, *messages: str) -> str:
    roles = ("user", "assistant")
    listed = [{"role": roles[number % 2], "content": text} for number, text in enumerate(messages)]
    reply = server.post("/v1/chat/completions", model=model, messages=listed, **SETTINGS).json
    return str(reply["choices"][0]["message"]["content"])


def texts(events: list[Any]) -> dict[str, str]:
    return {side: "".join(one.get("text", "") for one in events if one.get("side") == side) for side in ("a", "b")}


def test_a_battle_is_blind_until_the_vote_is_written(server: Address, arena: Arena) -> None:
    person = Person(server)
    started = person.start()
    battle = started.json["battle"]
    first, second = person.ask(battle), person.ask(battle, "and 2?")
    for reply in (started, first, second):
        said = reply.body.decode() + str(reply.headers)
        assert not re.search("first-model|second-model|usage", said)
    assert first.events[-1] == {"failed": False}
    voted = person.vote(battle, "model_b")
    names = voted.json
    assert {names["model_a"], names["model_b"]} == {"first-model", "second-model"}
    [vote] = arena.store.votes()
    for side, place in (("a", 1), ("b", 2)):
        whole = texts(first.events)[side], texts(second.events)[side]
        assert (vote.turns[0][place], vote.turns[1][place]) == whole
        assert whole[0] == answer(server, names[f"model_{side}"], "1 + 1?")
        assert whole[1] == answer(server, names[f"model_{side}"], "1 + 1?", whole[0], "and 2?")
    assert (vote.verdict, vote.category, vote.settings) == ("model_b", "math", SETTINGS)
    assert {vote.model_a: vote.digest_a, vote.model_b: vote.digest_b} == {"first-model": "digest-1", "second-model": ""}
    assert {vote.template_a, vote.template_b} == {"alpaca", "plain"}
    assert person.headers["Cookie"].split("=")[1] not in str(vote)  # nobody can vote in the visitor's name
    assert person.vote(battle).status == 409  # one vote a battle
    assert person.ask(battle).status == 409
    assert arena.store.count() == 1


def test_a_battle_belongs_to_its_visitor_and_needs_answers(server: Address) -> None:
    person, other = Person(server), Person(server)
    battle = person.start().json["battle"]
    assert person.vote(battle).status == 409  # nothing was answered
    assert other.ask(battle).status == 404
    assert person.ask("unknown").status == 404
    assert person.ask(battle, "").status == 400
    assert person.vote(battle, "best").status == 400


def test_battles_are_limited(server: Address) -> None:
    person = Person(server)
    replies = [person.start() for _ in range(14)]
    assert [reply.status for reply in replies] == [200] * 12 + [429] * 2
    assert int(replies[-1].headers["retry-after"]) <= 60


def test_the_leaderboard_has_three_forms(server: Address) -> None:
    person = Person(server)
    battle = person.start().json["battle"]
    person.ask(battle)
    person.vote(battle)
    board = server.get("/ui/arena/leaderboard.json?language=en").json
    assert sum(place["games"] for place in board["places"]) == 0 or board["votes"] == 1
    assert server.get("/ui/arena/leaderboard.json").json["places"][0]["unrated"] == "fewer than 20 votes"
    assert server.get("/ui/arena/leaderboard.csv").body.startswith(b"rank,worst_rank,model")
    picture = server.get("/ui/arena/leaderboard.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert server.get("/ui/arena/leaderboard.exe").status == 404
    assert server.get("/ui/arena/leaderboard.json?language=xx").status == 400


def test_a_model_that_fails_counts_for_nothing_and_blocks_nobody(models: list[ServedModel], tmp_path: Path) -> None:
    gone = remote_model("gone", "http://127.0.0.1:9/v1#x")
    clock = [0.0]
    opponents = [Opponent("first-model"), Opponent("gone")]
    arena = Arena(opponents, VoteStore(tmp_path / "votes.sqlite"), SETTINGS, clock=lambda: clock[0])
    with running(models, options=ServerOptions(pages=PageOptions(arena=arena)), remotes=[gone]) as server:
        person = Person(server)
        battle = person.start().json["battle"]
        reply = person.ask(battle)
        assert [one for one in reply.events if one.get("failed") and "side" in one]
        assert reply.events[-1] == {"failed": True}
        assert "gone" not in reply.body.decode()
        assert person.vote(battle).status == 409
        assert arena.store.count() == 0
        assert server.get("/ui/arena/opponents").json["opponents"][1] == {"name": "gone", "answers": False}
        assert person.start().status == 503  # one opponent is left
        clock[0] += 61
        assert person.start().status == 200  # it is tried again


def test_a_remote_opponent_answers_with_its_key(models: list[ServedModel], tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"person {PERSON}\n")
    with running(models[:1], options=ServerOptions(keys=read_keys(keys))) as other:
        remotes = [
            remote_model("first-remote", f"{other.url}/v1", PERSON),
            remote_model("plain-remote", f"{other.url}/v1#first-model", PERSON),
        ]
        arena = Arena([Opponent(one.name) for one in remotes], VoteStore(tmp_path / "votes.sqlite"), SETTINGS)
        with running([], options=ServerOptions(pages=PageOptions(arena=arena)), remotes=remotes) as server:
            person = Person(server)
            battle = person.start().json["battle"]
            found = texts(person.ask(battle).events)
            assert found["a"] == found["b"] != ""
            assert person.vote(battle, "tie").status == 200


def test_only_the_administrator_adds_opponents(models: list[ServedModel], arena: Arena, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"admin {ADMIN}\nperson {PERSON}\n")
    options = ServerOptions(keys=read_keys(keys), pages=PageOptions(arena=arena))
    new = {"name": "new", "address": "http://127.0.0.1:9/generate"}
    with running(models, options=options) as server:
        for key, status in ((PERSON, 403), (ADMIN, 200), (ADMIN, 409)):
            reply = server.post("/ui/arena/opponents", {"Authorization": f"Bearer {key}"}, **new)
            assert reply.status == status
        wrong = {**new, "name": "file", "address": "file:///etc/passwd"}
        assert server.post("/ui/arena/opponents", {"Authorization": f"Bearer {ADMIN}"}, **wrong).status == 400
    assert "new" in arena.opponents
    with running(models, options=ServerOptions(pages=PageOptions(arena=arena))) as server:
        assert server.post("/ui/arena/opponents", **new).status == 403  # no keys, no administrator


def test_battles_in_memory_are_bounded(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lotune.arena.battles.MAX_OPEN", 3)
    battles = [arena.start("v") for _ in range(5)]
    with pytest.raises(BattleError, match="no such battle"):
        arena.battle(battles[0].id, "v")
    assert arena.battle(battles[4].id, "v") is battles[4]


def test_an_answer_with_a_name_does_not_count(arena: Arena) -> None:
    battle = arena.start("v")
    arena.begin_turn(battle)
    arena.end_turn(battle, "Who are you?", {"a": "I am second-model.", "b": "I cannot say."})
    assert arena.vote(battle, "model_a").named


@browser_test
@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_the_arena_in_a_browser(browser: Any, server: Address, arena: Arena, size: tuple[int, int], dark: bool) -> None:
    """By mouse at first, then by keyboard alone."""
    with opened(browser, server, "/ui/arena", size, color_scheme="dark" if dark else "light") as page:
        names = page.locator("h2[id^=name-]")
        assert names.all_inner_texts() == ["Model A", "Model B"]
        page.fill("#question", "1 + 1?")
        page.get_by_role("button", name="Send").click()
        page.get_by_text("Which answer is better?").wait_for()
        assert "-model" not in page.locator("main").inner_text().split("Leaderboard")[0]
        page.get_by_role("button", name="B is better").click()
        page.get_by_text("Your vote counts").wait_for()
        assert set(names.all_inner_texts()) == {"first-model", "second-model"}
        page.get_by_text("1 votes count.").wait_for()
        assert page.locator("#board tbody tr").count() == 2
        page.keyboard.press("Enter")  # New battle has the focus
        assert names.all_inner_texts() == ["Model A", "Model B"]
        page.keyboard.type("2 + 2?")
        page.keyboard.press("Enter")
        page.get_by_text("Which answer is better?").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("t")
        page.get_by_text("Your vote counts").wait_for()
        page.get_by_role("button", name="中文").click()
        assert page.get_by_role("button", name="新对战").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert [vote.verdict for vote in arena.store.votes()] == ["model_b", "tie"]


@browser_test
def test_what_models_write_is_no_markup_in_the_arena(browser: Any, server: Address) -> None:
    with opened(browser, server, "/ui/arena") as page:
        page.fill("#question", "<img src=x onerror=document.title='ran'>")
        page.get_by_role("button", name="Send").click()
        page.get_by_text("Which answer is better?").wait_for()
        assert page.locator("#log-a img, #log-b img, #log-a script").count() == 0
        assert re.search("Arena", page.title())


def test_the_votes_of_the_page_are_exported(server: Address, arena: Arena) -> None:
    from lotune.arena.exchange import export_lines

    person = Person(server)
    battle = person.start().json["battle"]
    person.ask(battle)
    person.vote(battle, "both_bad")
    [line] = export_lines(arena.store)
    assert json.loads(line)["verdict"] == "both_bad"
