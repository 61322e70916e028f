"""The ledger knows what was done, drops what a kill cut off, and refuses what is not its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from lotune.errors import DataError
from lotune.synthesis.checks import Pair
from lotune.synthesis.concurrency import Concurrency
from lotune.synthesis.ledger import Digests, Ledger

PAIRS = [Pair("李白的朋友是谁？", "杜甫")]


def test_a_ledger_that_is_opened_again_knows_the_same(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger = Ledger(file)
    ledger.done("a:1", PAIRS, prompt_tokens=7)
    ledger.rejected("a:2", "form", "it is not JSON", "…", completion_tokens=3)
    ledger.refused("a:2", "form")
    ledger.failed("a:3", "status 500")
    ledger.close()
    file.write_bytes(file.read_bytes() + b'{"kind":"done","article":"a:4","pai')
    again = Ledger(file)
    assert (again.counts, again.refusals, again.rejections) == (ledger.counts, ledger.refusals, ledger.rejections)
    assert (again.pairs, again.prompt_tokens, again.completion_tokens) == (1, 7, 3)
    assert [id in again.ended for id in ("a:1", "a:2", "a:3", "a:4")] == [True, True, False, False]
    assert again.known(PAIRS[0])
    again.done("a:4", [Pair("杜甫的朋友是谁？", "李白")])
    again.close()
    last = Ledger(file)
    assert [record["article"] for record in last.lines("done")] == ["a:1", "a:4"]
    last.close()


def test_an_article_ends_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        ledger.done("a:1", PAIRS)
        with pytest.raises(DataError, match="ends the article a:1 twice"):
            ledger.refused("a:1", "form")


@pytest.mark.parametrize("line", [b"{}\n", b'{"kind": "other", "article": "a"}\n', b"[]\n", b"no JSON\n"])
def test_another_file_is_refused(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(line)
    with pytest.raises(DataError, match=r"ledger.jsonl:1: is no line of a ledger"):
        Ledger(file)
    assert file.read_bytes() == line


def test_digests_are_a_set() -> None:
    digests = Digests()
    for number in range(5000):
        digests.add(f"text {number}")
        digests.add(f"text {number}")
    assert len(digests) == 5000
    assert all(f"text {number}" in digests for number in range(5000))
    assert not any(f"text {number}" in digests for number in range(5000, 10_000))


def simulate(capacity: int, requests: int, most: int = 32, latency: float = 0.2) -> tuple[Concurrency, int, float]:
    """Let requests run against a server that refuses beyond its capacity; time is simulated."""
    import heapq

    concurrency, now, refused = Concurrency(most), 0.0, 0
    events: list[tuple[float, float, bool]] = []  # end, start, whether it is served
    open_ = serving = sent = limits = 0
    while sent < requests or events:
        while sent < requests and open_ < concurrency.limit:
            served = serving < capacity
            heapq.heappush(events, (now + (latency if served else 0.5), now, served))
            serving += served
            open_ += 1
            sent += 1
            if not served:
                refused += 1
                concurrency.refused(now, now)
        now, started, served = heapq.heappop(events)
        open_ -= 1
        serving -= served
        limits += concurrency.limit
        if served:
            concurrency.answered(started, now)
    return concurrency, refused, limits / requests


@pytest.mark.parametrize("capacity", [1, 3, 8, 20])
def test_the_limit_stays_near_what_a_server_takes(capacity: int) -> None:
    concurrency, refused, mean = simulate(capacity, 3000)
    assert abs(concurrency.limit - capacity) <= 1
    assert refused <= 0.02 * 3000
    assert mean == pytest.approx(capacity, rel=0.3)


def test_without_refusals_the_limit_is_the_most() -> None:
    concurrency, refused, mean = simulate(1000, 1000)
    assert (concurrency.limit, refused) == (32, 0)
    assert mean > 28


def test_single_refusals_change_nothing() -> None:
    concurrency = Concurrency(32)
    for number in range(2000):
        (concurrency.refused if number % 20 == 7 else concurrency.answered)(number * 0.01, number * 0.01 + 0.2)
    assert concurrency.limit == 32
