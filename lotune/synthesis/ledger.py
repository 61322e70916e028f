"""The ledger of a synthesis: one line for each event, appended at once, from which everything else is made.

An article is done or refused once; each rejected reply and each failed request has a line, too. A line that was cut off
by a kill is dropped when the ledger is opened, and its article is asked for again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from lotune.errors import DataError
from lotune.synthesis.checks import Pair, near_key, question_key

DONE, REFUSED, REJECTED, FAILED = "done", "refused", "rejected", "failed"
"""Kinds of lines: an article with its pairs, one without after all tries, a reply that broke a rule, a request that the
server failed until its article was left pending."""


class Digests:
    """A set of texts as 64-bit digests, 8 bytes each in a table that doubles: tens of bytes less than a set's entry."""

    def __init__(self) -> None:
        self._table, self._count = array("Q", bytes(8 * 1024)), 0

    def __contains__(self, text: str) -> bool:
        return self._table[self._place(_digest(text))] != 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> None:
        """Add a text."""
        value = _digest(text)
        place = self._place(value)
        if self._table[place]:
            return
        self._table[place] = value
        self._count += 1
        if 2 * self._count > len(self._table):
            old = [entry for entry in self._table if entry]
            self._table = array("Q", bytes(16 * len(self._table)))
            for entry in old:
                self._table[self._place(entry)] = entry

    def _place(self, value: int) -> int:
        mask = len(self._table) - 1
        place = value & mask
        while self._table[place] not in (0, value):
            place = (place + 1) & mask
        return place


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1


class Ledger:
    """The ledger of a folder, with what is known from its lines; one process writes it at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ended = Digests()
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self.pairs = self.prompt_tokens = self.completion_tokens = 0
        self._questions, self._near = Digests(), Digests()
        file.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        for record, end in self._stored():
            self._count(record)
            size = end
        self._stream = file.open("ab")
        self._stream.truncate(size)

    def _stored(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the whole lines of the file, each with the place where it ends. Raises: DataError for another file."""
        if not self.file.exists():
            return
        end = 0
        with self.file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return  # cut off
                try:
                    record = orjson.loads(line)
                    known = record["kind"] in (DONE, REFUSED, REJECTED, FAILED)
                except (orjson.JSONDecodeError, TypeError, KeyError):
                    known = False
                if not known:
                    raise DataError(f"{self.file}:{number}", "is no line of a ledger", "a file that synthesize wrote")
                end += len(line)
                yield record, end

    def known(self, pair: Pair) -> bool:
        """Return whether a question was asked before, or one that differs only in order and has the same answer."""
        return question_key(pair.question) in self._questions or near_key(pair) in self._near

    def done(self, article: str, pairs: list[Pair], **more: Any) -> None:
        """Write the pairs of an article."""
        listed = [{"question": pair.question, "answer": pair.answer} for pair in pairs]
        self._write({"kind": DONE, "article": article, "pairs": listed, **more})

    def refused(self, article: str, reason: str, **more: Any) -> None:
        """Write that an article has no pairs, for the reason of its last reply."""
        self._write({"kind": REFUSED, "article": article, "reason": reason, **more})

    def rejected(self, article: str, reason: str, why: str, reply: str, **more: Any) -> None:
        """Write a reply that broke a rule."""
        self._write({"kind": REJECTED, "article": article, "reason": reason, "why": why, "reply": reply, **more})

    def failed(self, article: str, why: str) -> None:
        """Write that an article stays pending, as the server failed all its requests."""
        self._write({"kind": FAILED, "article": article, "why": why})

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def lines(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of one kind, from the file."""
        for record, _ in self._stored():
            if record["kind"] == kind:
                yield record

    def _write(self, record: dict[str, Any]) -> None:
        self._stream.write(orjson.dumps(record) + b"\n")
        self._stream.flush()
        self._count(record)

    def _count(self, record: dict[str, Any]) -> None:
        kind, article = record["kind"], record["article"]
        if kind in (DONE, REFUSED):
            if article in self.ended:
                raise DataError(str(self.file), f"ends the article {article} twice", "each article once")
            self.ended.add(article)
        self.counts[kind] += 1
        self.prompt_tokens += record.get("prompt_tokens", 0)
        self.completion_tokens += record.get("completion_tokens", 0)
        if kind == REFUSED:
            self.refusals[record["reason"]] += 1
        if kind == REJECTED:
            self.rejections[record["reason"]] += 1
        for item in record.get("pairs", ()) if kind == DONE else ():
            pair = Pair(item["question"], item["answer"])
            self.pairs += 1
            self._questions.add(question_key(pair.question))
            self._near.add(near_key(pair))
