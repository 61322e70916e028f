"""`lotune synthesize`: question–answer pairs about articles, written by a model behind a chat API."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from lotune.console import print_status
from lotune.data.corpus import Corpus
from lotune.errors import RunError
from lotune.files import write_json
from lotune.runs import lock_file
from lotune.settings import read_settings
from lotune.synthesis.ledger import DONE, FAILED, REFUSED, Ledger
from lotune.synthesis.prompts import pairs_schema, request_messages
from lotune.synthesis.settings import SynthesisSettings
from lotune.text_display import print_visible

LEDGER, PAIRS, ACCOUNT = "ledger.jsonl", "pairs.jsonl", "account.json"
SHOWN_REQUESTS = 3
REPORT_SECONDS = 5.0
CHARACTERS_PER_TOKEN = {"zh": 1.3, "en": 4.0}
"""For the estimate before the server has counted."""
SECONDS_PER_REPLY = 1.5
"""What an article took in the course that this verb comes from."""


@dataclass(frozen=True)
class Account:
    """What became of the articles: articles = done + refused + pending."""

    articles: int
    done: int
    refused: int
    pending: int
    pairs: int
    refused_by_reason: dict[str, int]
    rejected_by_reason: dict[str, int]
    failed_requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float

    def check(self) -> None:
        """Raise RunError if the numbers do not add up."""
        if self.articles != self.done + self.refused + self.pending or self.pending < 0:
            raise RunError("ledger", f"does not balance: {self}", "the articles that it was begun with")


def synthesize(recipe: Path, overrides: list[str], dry_run: bool = False) -> Account | None:
    """Write pairs about the articles of a recipe, and continue where an earlier run was stopped.

    Returns the account; None for a dry run. Raises: SettingsError, DataError for articles or a ledger that cannot be
    read; ModelError for a server that cannot be reached; RunError if the server fails again and again.
    """
    settings = read_settings(SynthesisSettings, recipe, overrides)
    total = sum(1 for _ in _articles(settings))
    if dry_run:
        _show_requests(settings, total)
        return None
    settings.out.mkdir(parents=True, exist_ok=True)
    with lock_file(settings.out / ".lock"):
        return _write(settings, total)


def _write(settings: SynthesisSettings, total: int) -> Account:
    from lotune.synthesis.server import ChatServer
    from lotune.synthesis.writer import Article, Writer

    ledger = Ledger(settings.out / LEDGER)
    account = _account(settings, ledger, total)
    account.check()
    if account.pending < total:
        print_status(f"{account.done} articles done and {account.refused} refused before; {account.pending} are left")

    async def work() -> None:
        at_once = settings.requests.at_once
        server = ChatServer(settings.server, at_once)
        judge = ChatServer(settings.quality.server, at_once) if settings.quality else None
        writer = Writer(settings, ledger, server, judge, _Reporter(settings, ledger, total))
        try:
            await server.connect()
            if judge is not None:
                await judge.connect()
            await writer.run(Article(id, text) for id, text in _articles(settings))
        finally:
            await server.close()
            if judge is not None:
                await judge.close()

    try:
        if account.pending:
            asyncio.run(work())
    finally:
        ledger.close()
        account = _account(settings, ledger, total)
        _write_pairs(settings.out, ledger)
        write_json(settings.out / ACCOUNT, asdict(account))
        print_visible(_described(account, settings), file=sys.stderr)
    account.check()
    if account.pending:
        raise RunError(
            str(settings.out), f"{account.pending} articles are pending", remedy="run the same command again"
        )
    if account.articles and not account.done:
        remedy = f"read the replies in {settings.out / LEDGER}, and take another model, prompt or rules"
        raise RunError(str(settings.out), "no reply followed the rules", remedy=remedy)
    return account


def _articles(settings: SynthesisSettings) -> Iterator[tuple[str, str]]:
    """Yield id and text of each article, cut; the id begins with the file's name, wherever the folder lies."""
    corpus = Corpus(settings.articles, settings.cleaning, text_key=settings.text_key)
    root = settings.articles if settings.articles.is_dir() else settings.articles.parent
    for article in islice(corpus.articles(), settings.limit):
        yield article.id.removeprefix(f"{root}/"), article.target[: settings.article_characters]


def _account(settings: SynthesisSettings, ledger: Ledger, total: int) -> Account:
    done, refused = ledger.counts[DONE], ledger.counts[REFUSED]
    prices = settings.prices
    cost = (ledger.prompt_tokens * prices.prompt + ledger.completion_tokens * prices.completion) / 1e6
    return Account(
        total, done, refused, total - done - refused, ledger.pairs, dict(ledger.refusals), dict(ledger.rejections),
        ledger.counts[FAILED], ledger.prompt_tokens, ledger.completion_tokens, round(cost, 6),
    )  # fmt: skip


def _write_pairs(folder: Path, ledger: Ledger) -> None:
    """Write the training file from the ledger: a pair a line, with the article and the model that it comes from."""
    file = folder / PAIRS
    part = file.with_name(f".{PAIRS}.part")
    with part.open("wb") as stream:
        for record in ledger.lines(DONE):
            origin = {"article": record["article"], "model": record.get("model", "")}
            for pair in record["pairs"]:
                stream.write(orjson.dumps({**pair, **origin}) + b"\n")
    part.replace(file)


def _described(account: Account, settings: SynthesisSettings) -> str:
    lines = [
        f"articles: {account.articles} = {account.done} done + {account.refused} refused + {account.pending} pending; "
        f"pairs: {account.pairs}"
    ]
    for name, counts in (("refused", account.refused_by_reason), ("rejected replies", account.rejected_by_reason)):
        if counts:
            each = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))
            lines.append(f"{name}: {each}")
    if account.failed_requests:
        lines.append(f"left pending by the server: {account.failed_requests} (reasons: {settings.out / LEDGER})")
    cost = f", cost {account.cost:g}" if account.cost else ""
    lines.append(f"tokens: {account.prompt_tokens:,} of prompts, {account.completion_tokens:,} of replies{cost}")
    lines.append(f"written: {settings.out / PAIRS}")
    return "\n".join(lines)


class _Reporter:
    """Prints a line of progress every few seconds."""

    def __init__(self, settings: SynthesisSettings, ledger: Ledger, total: int) -> None:
        self._settings, self._ledger, self._total = settings, ledger, total
        self._last = time.monotonic()

    def __call__(self, progress: Any, concurrency: Any) -> None:
        now = time.monotonic()
        if now - self._last < REPORT_SECONDS:
            return
        self._last = now
        seconds, ended = now - progress.started, progress.done + progress.refused
        left = self._total - self._ledger.counts[DONE] - self._ledger.counts[REFUSED]
        account = _account(self._settings, self._ledger, self._total)
        tokens = f"{account.prompt_tokens + account.completion_tokens:,} tokens"
        tokens += f", cost {account.cost:.2f}" if account.cost else ""
        reasons = ", ".join(f"{name} {count}" for name, count in self._ledger.rejections.most_common(3))
        print_status(
            f"{self._total - left} of {self._total} articles, {progress.pairs / seconds:.1f} pairs/s, "
            f"{progress.acceptance:.0%} accepted, {concurrency.limit} at once, about "
            f"{left * seconds / max(1, ended) / 60:.0f} min left, {tokens}"
            + (f"; rejected: {reasons}" if reasons else "")
        )


def _show_requests(settings: SynthesisSettings, total: int) -> None:
    """Print the first requests as they would be sent, and an estimate."""
    from lotune.synthesis.server import ChatServer

    server = ChatServer(settings.server, 1)
    characters = shown = 0
    for number, (id, text) in enumerate(_articles(settings)):
        messages = request_messages(settings, text)
        characters += sum(len(message["content"]) for message in messages)
        if number < SHOWN_REQUESTS:
            shown += 1
            body = orjson.dumps(server.body(messages, pairs_schema(settings.pair_rules)), option=orjson.OPT_INDENT_2)
            print_visible(f"--- {id}\n{body.decode()}")
    tokens = characters / CHARACTERS_PER_TOKEN[settings.language]
    rules = settings.pair_rules
    reply = (rules.fewest + rules.most) / 2 * (rules.question_characters[1] + rules.answer_characters[1] / 3 + 20)
    replies = total * reply / CHARACTERS_PER_TOKEN[settings.language]
    cost = (tokens * settings.prices.prompt + replies * settings.prices.completion) / 1e6
    hours = total * SECONDS_PER_REPLY / settings.requests.at_once / 3600
    print_visible(
        f"--- {total} articles, about {tokens:,.0f} tokens of prompts and {replies:,.0f} of replies"
        + (f", cost {cost:.2f}" if cost else "")
        + f"; {hours:.2g} h at {SECONDS_PER_REPLY} s an article and {settings.requests.at_once} at once"
    )
