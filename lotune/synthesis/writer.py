"""Ask a server for pairs about many articles at once, check its replies, and write each to the ledger as it comes."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from lotune.errors import RunError
from lotune.synthesis.checks import Pair, ReplyError, check_reply
from lotune.synthesis.concurrency import Concurrency
from lotune.synthesis.ledger import Ledger
from lotune.synthesis.prompts import again_messages, grade_messages, pairs_schema, request_messages
from lotune.synthesis.server import ChatServer, Reply, ServerFaultError
from lotune.synthesis.settings import SynthesisSettings

FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
"""Seconds before a failed request is sent again, at first and at most; doubled each time."""
MAX_FAILED_IN_ROW = 20
"""Articles in a row that the server fails before the run is given up."""


@dataclass(frozen=True)
class Article:
    """An article by its id: its file with the line or number in it."""

    id: str
    text: str


@dataclass
class Progress:
    """What happened since the start of this process."""

    started: float = field(default_factory=time.monotonic)
    done: int = 0
    refused: int = 0
    pairs: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def acceptance(self) -> float:
        """Articles with pairs as a share of those that ended."""
        return self.done / max(1, self.done + self.refused)


class Writer:
    """Writes pairs about articles to a ledger; `report` is called after each article."""

    def __init__(
        self,
        settings: SynthesisSettings,
        ledger: Ledger,
        server: ChatServer,
        judge: ChatServer | None = None,
        report: Callable[[Progress, Concurrency], None] = lambda progress, concurrency: None,
    ) -> None:
        self.settings, self.ledger, self.server, self.judge = settings, ledger, server, judge
        self.report, self.progress = report, Progress()
        self.concurrency = Concurrency(settings.requests.at_once)
        self._rules = settings.pair_rules
        self._schema = pairs_schema(self._rules)
        self._random = random.Random(0)
        self._failed_in_row = 0

    async def run(self, articles: Iterator[Article]) -> None:
        """Ask about each article that has not ended.

        Raises: RunError if the server fails one article after another, or refuses what it is sent.
        """
        pending: set[asyncio.Task[None]] = set()
        waiting = (article for article in articles if article.id not in self.ledger.ended)
        article = next(waiting, None)
        try:
            while pending or article is not None:
                while article is not None and len(pending) < self.concurrency.limit:
                    pending.add(asyncio.create_task(self._write(article)))
                    article = next(waiting, None)
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    task.result()
                if self._failed_in_row >= MAX_FAILED_IN_ROW:
                    last = ", ".join(f"{why} {count}" for why, count in self.progress.faults.most_common(3))
                    raise RunError(self.server.url, f"failed {MAX_FAILED_IN_ROW} articles in a row ({last})")
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _write(self, article: Article) -> None:
        messages = request_messages(self.settings, article.text)
        conversation, tries, tokens = list(messages), self.settings.requests.retries + 1, Counter[str]()
        error = ReplyError("form", "")
        for number in range(1, tries + 1):
            try:
                reply = await self._ask(self.server, conversation, self._schema)
                pairs = await self._checked(article, reply, tokens)
            except ServerFaultError as fault:
                self.ledger.failed(article.id, str(fault))
                self._failed_in_row += 1
                self.report(self.progress, self.concurrency)
                return
            except ReplyError as found:
                error = found
                self.ledger.rejected(article.id, found.kind, str(found), reply.text, **_counted(tokens))
                tokens.clear()
                conversation = [*messages, *again_messages(self.settings, reply.text, str(found))]
                continue
            self.ledger.done(article.id, pairs, model=self.server.model, tries=number, **_counted(tokens))
            self.progress.done += 1
            self.progress.pairs += len(pairs)
            break
        else:
            self.ledger.refused(article.id, error.kind, why=str(error), tries=tries)
            self.progress.refused += 1
        self._failed_in_row = 0
        self.report(self.progress, self.concurrency)

    async def _checked(self, article: Article, reply: Reply, tokens: Counter[str]) -> list[Pair]:
        """Return the pairs of a reply. Raises: ReplyError; ServerFaultError if the judge fails."""
        tokens["prompt_tokens"] += reply.prompt_tokens
        tokens["completion_tokens"] += reply.completion_tokens
        pairs = check_reply(reply.text, article.text, self._rules, self.ledger.known)
        if self.judge is not None and self.settings.quality is not None:
            listed = "\n".join(f"{pair.question}\n{pair.answer}" for pair in pairs)
            graded = await self._ask(self.judge, grade_messages(self.settings, article.text, listed), None)
            tokens["prompt_tokens"] += graded.prompt_tokens
            tokens["completion_tokens"] += graded.completion_tokens
            if (grade := _grade(graded.text)) < self.settings.quality.at_least:
                raise ReplyError("quality", f"the judge gave {grade} of 5")
            if any(self.ledger.known(pair) for pair in pairs):  # written while the judge read
                raise ReplyError("known", "a question was asked about another article")
        return pairs

    async def _ask(self, server: ChatServer, messages: list[dict[str, str]], schema: dict[str, Any] | None) -> Reply:
        """Return a reply; a request that fails is sent again. Its place stays taken, so that a busy server rests.

        Raises: ServerFaultError after the last try; RunError for a request that the server will never take.
        """
        wait = FIRST_WAIT
        for number in range(1, self.settings.requests.faults + 1):
            started = time.monotonic()
            try:
                reply = await server.chat(messages, schema)
            except ServerFaultError as fault:
                self.progress.faults[fault.kind] += 1
                if fault.is_overload:
                    self.concurrency.refused(started, time.monotonic())
                if number == self.settings.requests.faults:
                    raise
                pause = fault.retry_after if fault.retry_after is not None else wait * (0.5 + self._random.random())
                await asyncio.sleep(min(pause, LONGEST_WAIT))
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            self.concurrency.answered(started, time.monotonic())
            return reply
        raise AssertionError("unreachable")


def _counted(tokens: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in tokens.items() if count}


def _grade(text: str) -> int:
    """Return the grade of a judge's reply. Raises: ReplyError for a reply without one."""
    import re

    try:
        value = orjson.loads(text)["grade"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        found = re.findall(r"(?<![\d.])[1-5](?![\d.])", text)
        value = int(found[-1]) if found else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 5:
        raise ReplyError("quality", "the judge gave no grade")
    return int(value)
