"""Synthesis against a local server with faults: `python benchmarks/synthesis.py [--articles 2000]`.

The server, in a process of its own, answers after 200 ms, and faults at random: 429 with Retry-After .5 s, 500, a reply
that takes 1 s longer than the time-out, JSON that is cut off, one pair instead of three, 1 % each. Figures: articles a
second with 32 requests at once and with one at a time, and their ratio; then a server that takes eight at once and
refuses the rest: the limit at the end, and the share of requests that it refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chat_server import FakeServer, article, one_percent_each  # a server of the tests

from lotune.synthesis.ledger import DONE, Ledger
from lotune.synthesis.server import ChatServer
from lotune.synthesis.settings import RequestSettings, ServerSettings, SynthesisSettings
from lotune.synthesis.writer import Article, Writer

LATENCY, TIMEOUT = 0.2, 1.0


def serve(capacity: int, faults: bool) -> None:
    """Serve until the process is told to end, then print what was seen; the address is the first line."""
    server = FakeServer(LATENCY, capacity, one_percent_each if faults else lambda draw: "", stall=TIMEOUT + 1)
    with server.running():
        print(server.url, flush=True)
        sys.stdin.read()
    print(json.dumps({"requests": server.seen["requests"], "refused": server.refused}))


def written(
    articles: int, at_once: int, capacity: int = 10_000, faults: bool = True
) -> tuple[float, int, dict[str, int]]:
    """Return articles a second, the limit at the end, and what the server saw."""
    words = [sys.executable, __file__, "--serve", str(capacity), *(["--faults"] if faults else [])]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    server = ServerSettings(url=url, model="writer", timeout=TIMEOUT)
    with tempfile.TemporaryDirectory() as folder:
        settings = SynthesisSettings(
            articles=Path(folder), server=server, requests=RequestSettings(at_once=at_once, retries=3)
        )
        ledger = Ledger(Path(folder) / "ledger.jsonl")

        async def run() -> Writer:
            client = ChatServer(server, at_once)
            writer = Writer(settings, ledger, client)
            await writer.run(Article(f"a:{number}", article(number)) for number in range(articles))
            await client.close()
            return writer

        started = time.perf_counter()
        writer = asyncio.run(run())
        seconds = time.perf_counter() - started
        ledger.close()
        assert ledger.counts[DONE] == articles, ledger.counts
    process.stdin.close()
    seen = json.loads(process.stdout.read().splitlines()[-1])
    process.wait()
    return articles / seconds, writer.concurrency.limit, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", type=int, default=2000)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--faults", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.faults)
        return
    many, limit, _ = written(args.articles, 32)
    one, _, _ = written(max(20, args.articles // 16), 1)
    print(
        f"32 at once: {many:.1f} articles/s, limit {limit}; one at a time {one:.2f}: {many / one:.1f} times (reach 20)"
    )
    speed, limit, seen = written(args.articles, 32, capacity=8, faults=False)
    share = seen["refused"] / seen["requests"]
    print(f"a server of eight: limit {limit}, {speed:.1f} articles/s, {share:.2%} of its requests refused (reach 2 %)")


if __name__ == "__main__":
    main()
