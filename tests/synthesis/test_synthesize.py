"""Articles become pairs: faults are sent again, broken rules asked for again, and a killed run repeats nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import FAULTS, FakeServer, article, one_percent_each

from lotune.errors import ModelError, RunError, SettingsError
from lotune.stages.synthesize import Account, synthesize
from lotune.synthesis.ledger import Ledger
from lotune.synthesis.prompts import request_messages
from lotune.synthesis.server import ChatServer
from lotune.synthesis.settings import ServerSettings, SynthesisSettings
from lotune.synthesis.writer import Article, Writer

QUICK = {"timeout": 1.0}


def make(folder: Path, count: int, **settings: Any) -> Path:
    """Write articles and a recipe."""
    lines = [json.dumps({"text": article(number)}, ensure_ascii=False) for number in range(count)]
    (folder / "articles.jsonl").write_text("\n".join(lines) + "\n")
    recipe = folder / "synthesis.yaml"
    fields = {"articles": str(folder / "articles.jsonl"), "out": str(folder / "out"), **settings}
    recipe.write_text(yaml.safe_dump(fields, allow_unicode=True))
    return recipe


def run(folder: Path, server: FakeServer, count: int = 20, **settings: Any) -> Account:
    fields = {**settings, "server": {"url": server.url, **QUICK, **settings.get("server", {})}}
    account = synthesize(make(folder, count, **fields), [])
    assert account is not None
    return account


def pairs_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "pairs.jsonl").read_text().splitlines()]


def ledger_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "ledger.jsonl").read_text().splitlines()]


def test_each_article_becomes_pairs_with_their_origin(tmp_path: Path) -> None:
    with FakeServer().running() as server:
        account = run(tmp_path, server, prices={"prompt": 1.0, "completion": 2.0})
    assert (account.articles, account.done, account.refused, account.pending, account.pairs) == (20, 20, 0, 0, 60)
    assert account.cost == pytest.approx((20 * 100 * 1 + 20 * 50 * 2) / 1e6)
    pairs = pairs_of(tmp_path)
    assert {"question": "物品7的产地？", "answer": "地7", "article": "articles.jsonl:8", "model": "writer"} in pairs
    assert Counter(pair["article"] for pair in pairs) == {f"articles.jsonl:{n}": 3 for n in range(1, 21)}
    assert json.loads((tmp_path / "out" / "account.json").read_text())["done"] == 20
    body = server.bodies[0]
    assert body["temperature"] == 0.45
    assert body["response_format"]["json_schema"]["schema"]["properties"]["pairs"]["minItems"] == 3
    assert "3 到 6 个问答对" in body["messages"][1]["content"]


def test_progress_has_speed_acceptance_tokens_and_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lotune.stages.synthesize.REPORT_SECONDS", 0.0)
    tries = Counter[str]()

    def reply(asked: str) -> str:
        tries[asked] += 1
        body = {"messages": [{"role": "user", "content": asked}]}
        return "no JSON" if tries[asked] == 1 else FakeServer().text(body, "")

    with FakeServer(reply=reply).running() as server:
        run(tmp_path, server, count=4, prices={"prompt": 1000.0}, requests={"at_once": 1})
    lines = [line for line in capsys.readouterr().err.splitlines() if "at once" in line]
    assert len(lines) == 4
    assert re.search(r"4 of 4 articles, [\d.]+ pairs/s, 100% accepted, 1 at once, about 0 min left, ", lines[-1])
    assert lines[-1].endswith("1,200 tokens, cost 0.80; rejected: form 4")


def test_a_broken_rule_is_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    tries = Counter[str]()

    def reply(asked: str) -> str:
        tries[asked] += 1
        pairs = [{"question": f"物品{q}？", "answer": "颜色"} for q in "甲乙丙"]
        return json.dumps({"pairs": pairs if tries[asked] > 2 else pairs[:1]}, ensure_ascii=False)

    with FakeServer(reply=reply).running() as server:
        account = run(tmp_path, server, count=1)
    assert (account.done, account.rejected_by_reason) == (1, {"count": 2})
    rejected = [line for line in ledger_of(tmp_path) if line["kind"] == "rejected"]
    assert [line["why"] for line in rejected] == ["it has 1 pairs, not 3 to 6"] * 2
    assert all("颜色" in line["reply"] for line in rejected)
    again = server.bodies[2]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert "it has 1 pairs, not 3 to 6" in again[-1]["content"]


def test_an_article_without_a_good_reply_is_refused_with_its_reason(tmp_path: Path) -> None:
    refusing = FakeServer(reply=lambda asked: "I cannot.")
    with refusing.running() as server, pytest.raises(RunError, match="no reply followed the rules"):
        run(tmp_path, server, count=3, requests={"retries": 2})
    account = json.loads((tmp_path / "out" / "account.json").read_text())
    assert (account["done"], account["refused"], account["refused_by_reason"]) == (0, 3, {"form": 3})
    assert server.seen["requests"] == 9
    assert pairs_of(tmp_path) == []


def test_no_question_is_written_twice(tmp_path: Path) -> None:
    fixed = json.dumps({"pairs": [{"question": q, "answer": "颜色"} for q in ("甲？", "乙？", "丙？")]})
    with FakeServer(reply=lambda asked: fixed).running() as server:
        account = run(tmp_path, server, count=4, requests={"retries": 0})
    assert (account.done, account.refused_by_reason) == (1, {"known": 3})


def test_a_server_without_schemas_is_asked_without(tmp_path: Path) -> None:
    with FakeServer(schema=False).running() as server:
        assert run(tmp_path, server, count=5).done == 5
        recipe = make(tmp_path, 5, out=str(tmp_path / "other"), server={"url": server.url, "json_schema": "on"})
        with pytest.raises(RunError, match="refuses a request with status 400"):
            synthesize(recipe, [])


def test_faults_are_sent_again(tmp_path: Path) -> None:
    server = FakeServer(fault=one_percent_each, latency=0.1)
    with server.running():
        account = run(tmp_path, server, count=400)
    assert account.done == 400
    assert sum(server.seen[kind] for kind in FAULTS) > 5
    assert len({pair["article"] for pair in pairs_of(tmp_path)}) == 400


def test_a_server_of_eight_is_kept_at_eight(tmp_path: Path) -> None:
    with FakeServer(latency=0.05, capacity=8).running() as server:
        account = run(tmp_path, server, count=1000)
    assert account.done == 1000
    assert server.largest == 8
    # Two in a hundred in the simulation of test_synthesis_ledger.py, which no other process disturbs.
    assert server.refused <= 0.1 * server.seen["requests"]


def test_a_server_that_fails_leaves_articles_pending_and_a_later_run_finishes(tmp_path: Path) -> None:
    broken = [True]
    server = FakeServer(fault=lambda draw: "error" if broken[0] else "")
    with server.running():
        with pytest.raises(RunError, match=r"failed 20 articles in a row|articles are pending"):
            run(tmp_path, server, count=30, requests={"faults": 1})
        account = json.loads((tmp_path / "out" / "account.json").read_text())
        assert account["pending"] + account["done"] + account["refused"] == account["articles"] == 30
        assert {line["why"] for line in ledger_of(tmp_path)} == {"status 500: a fault"}
        broken[0] = False
        assert run(tmp_path, server, count=30).done == 30
        asked = server.seen["requests"]
        assert run(tmp_path, server, count=30).done == 30  # nothing is left to do
        assert server.seen["requests"] == asked


def test_a_judge_grades_the_replies(tmp_path: Path) -> None:
    grades = iter(("2", '{"grade": 5}', "no grade"))

    with FakeServer(reply=lambda asked: next(grades)).running() as judge, FakeServer().running() as server:
        quality = {"server": {"url": judge.url}, "at_least": 3}
        account = run(tmp_path, server, count=2, quality=quality, requests={"at_once": 1, "retries": 0})
    assert (account.done, account.refused_by_reason) == (1, {"quality": 1})


def test_a_dry_run_shows_three_requests_and_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer().running() as server:
        assert synthesize(make(tmp_path, 10, server={"url": server.url}), [], dry_run=True) is None
        assert server.seen["requests"] == 0
    shown = capsys.readouterr().out
    assert shown.count('"messages"') == 3
    assert "10 articles, about" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "Write."}, r"prompt has no \{article\}"),
        ({"rules": {"fewest": 7}}, "fewest 7 is more than most 6"),
        ({"rules": {"question_characters": [5, 2]}}, "is no range"),
        ({"server": {"tempature": 1}}, "did you mean server.temperature"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        synthesize(make(tmp_path, 1, **settings), [])


@pytest.mark.parametrize(
    ("settings", "longest"),
    [({}, 15), ({"language": "en"}, 100), ({"language": "en", "rules": {"question_characters": [1, 40]}}, 40)],
)
def test_english_questions_may_be_longer(tmp_path: Path, settings: dict[str, Any], longest: int) -> None:
    read = SynthesisSettings(articles=tmp_path, **settings)
    assert read.pair_rules.question_characters[1] == longest
    assert str(longest) in request_messages(read, "Text.")[1]["content"]


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be reached"):
        synthesize(make(tmp_path, 1, server={"url": "http://127.0.0.1:9"}), [])


def killed_and_continued(folder: Path, count: int, kills: int) -> None:
    """Kill a run after it wrote some lines, again and again; then let it end."""
    server = FakeServer(latency=0.02)
    with server.running():
        recipe = make(folder, count, server={"url": server.url})
        ledger, seen = folder / "out" / "ledger.jsonl", 0
        for number in range(kills + 1):
            process = subprocess.Popen(
                [sys.executable, "-m", "lotune", "synthesize", str(recipe)],
                stderr=subprocess.DEVNULL,
                env={**os.environ},
            )
            if number < kills:
                goal = seen + count // (kills + 2)
                while (seen := ledger.read_bytes().count(b"\n") if ledger.exists() else 0) < goal:
                    assert process.poll() is None
                process.send_signal(signal.SIGKILL)
            process.wait(300)
        assert process.returncode == 0
    done = Counter(line["article"] for line in ledger_of(folder) if line["kind"] == "done")
    assert done == {f"articles.jsonl:{number}": 1 for number in range(1, count + 1)}
    assert len(pairs_of(folder)) == 3 * count
    # Only what was under way at a kill was asked for twice.
    assert server.seen["requests"] <= count + 33 * kills


def test_a_killed_run_loses_only_what_was_under_way(tmp_path: Path) -> None:
    killed_and_continued(tmp_path, 400, 1)


@pytest.mark.soak
def test_after_ten_kills_no_article_is_missing_or_twice(tmp_path: Path) -> None:
    killed_and_continued(tmp_path, 3000, 10)


class Instant(ChatServer):
    """A server in this process, for many articles."""

    async def chat(self, messages: list[dict[str, str]], schema: Any) -> Any:
        from lotune.synthesis.server import Reply

        await asyncio.sleep(0)
        return Reply(FakeServer().text({"messages": messages}, ""), 100, 50)


def growth(folder: Path, count: int) -> float:
    """The memory that a run of many articles takes after its first thousand, in MiB."""
    import psutil

    process, sizes = psutil.Process(), list[int]()

    def articles() -> Iterator[Article]:
        for number in range(count):
            if number % 1000 == 999:
                sizes.append(process.memory_info().rss)
            yield Article(f"a:{number}", article(number))

    ledger = Ledger(folder / "ledger.jsonl")
    settings = SynthesisSettings(articles=folder, server=ServerSettings(model="m"))
    asyncio.run(Writer(settings, ledger, Instant(settings.server, 32)).run(articles()))
    ledger.close()
    assert ledger.counts["done"] == count
    return (sizes[-1] - sizes[0]) / 2**20


@pytest.mark.soak
def test_memory_is_flat_over_many_articles(tmp_path: Path) -> None:
    assert growth(tmp_path, 100_000) < 40  # the digests of 100,000 articles and 300,000 questions among them
