"""Cut encoded articles into blocks of tokens for pre-training.

Articles are cut after encoding, so that a block never exceeds its size. Sentence ends are texts: they are found in the
bytes of the tokens, as one of them may take several tokens (GPT-2's ？ takes three), or share one with a line break.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from lotune.data.sentences import CLOSERS, SENTENCE_ENDS
from lotune.data.token_bytes import token_bytes
from lotune.data.tokenized import EncodedRow

Chunking = Literal["first_block", "sentences", "stream"]


class BlockRule(NamedTuple):
    """How articles become blocks of at most `size` tokens.

    - `first_block`: as many whole sentences from the start of each article as fit, then end-of-text.
    - `sentences`: all whole sentences, in as many blocks as needed, the last of which ends with end-of-text. A sentence
      longer than a block is left out.
    - `stream`: the articles one after the other, each with its end-of-text, cut every `size` tokens.
    """

    size: int
    chunking: Chunking
    ends: Callable[[Sequence[int]], list[int]] | None = None
    """Returns after how many tokens each sentence ends, as SentenceEnds does; a stream needs none."""


class SentenceEnds:
    """Finds the tokens after which a sentence ends.

    An end in ASCII, such as ".", counts only where no letter or digit of ASCII follows: 3.14 and example.com go on.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str] = SENTENCE_ENDS) -> None:
        self._bytes = token_bytes(tokenizer)
        longest_first = sorted(set(texts), key=len, reverse=True)
        ends = (re.escape(text.encode()) + (rb"(?![0-9A-Za-z])" if text.isascii() else b"") for text in longest_first)
        self._pattern = re.compile(b"|".join(ends))

    def __call__(self, token_ids: Sequence[int]) -> list[int]:
        """Return after how many tokens of a text each of its sentences ends.

        What a token has beyond the end of a sentence must be blank, or close a quote or a bracket.
        """
        pieces = [self._bytes[token] for token in token_ids]
        text, stops = b"".join(pieces), list(accumulate(map(len, pieces)))
        counts = list[int]()
        for match in self._pattern.finditer(text):
            last = bisect_right(stops, match.end() - 1)  # the token with the last byte of the end
            beyond = text[match.end() : stops[last]]
            if not beyond.strip() or not beyond.decode(errors="replace").strip(CLOSERS).strip():
                counts.append(last + 1)
        return counts


def chunk_articles(articles: Iterable[EncodedRow], rule: BlockRule, counts: Counter[str]) -> Iterator[EncodedRow]:
    """Yield blocks of articles that were encoded with end-of-text, by a rule.

    An article without a sentence that fits is dropped. The numbers of `articles`, `blocks`, `tokens`, `dropped`
    articles, and articles that were `cut`, with the `cut_tokens`, are added to `counts`, and the `padding` that would
    fill all blocks up.
    """
    blocks = _stream(articles, rule.size, counts) if rule.ends is None else _by_sentence(articles, rule, counts)
    for block in blocks:
        counts["blocks"] += 1
        counts["tokens"] += len(block.token_ids)
        counts["padding"] += rule.size - len(block.token_ids)
        yield block


def _by_sentence(articles: Iterable[EncodedRow], rule: BlockRule, counts: Counter[str]) -> Iterator[EncodedRow]:
    assert rule.ends is not None
    for article in articles:
        *text, eos = article.token_ids
        counts["articles"] += 1
        spans = list(_whole_sentences([0, *rule.ends(text)], rule.size - 1))  # one token is reserved for end-of-text
        if rule.chunking == "first_block":
            spans = [span for span in spans[:1] if span[0] == 0]
        for start, stop in spans:
            is_last = (start, stop) == spans[-1]
            yield EncodedRow(article.id, (*text[start:stop], *([eos] if is_last else ())), 0)
        kept = sum(stop - start for start, stop in spans)
        counts["dropped"] += not spans
        counts["cut"] += 0 < kept < len(text)
        counts["cut_tokens"] += len(text) - kept


def _whole_sentences(ends: list[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield spans of as many whole sentences as fit `max_tokens`; longer sentences and single tokens are left out."""
    number = 0
    while number < len(ends) - 1:
        start = ends[number]
        fitting = bisect_right(ends, start + max_tokens) - 1
        # A block of one token has nothing to predict it from.
        if fitting > number and ends[fitting] > start + 1:
            yield start, ends[fitting]
        number = max(fitting, number + 1)


def _stream(articles: Iterable[EncodedRow], size: int, counts: Counter[str]) -> Iterator[EncodedRow]:
    buffer: list[int] = []
    id = ""  # of the article in which the block begins
    for article in articles:
        counts["articles"] += 1
        id = id or article.id
        buffer.extend(article.token_ids)
        end = len(buffer) // size * size
        for start in range(0, end, size):
            yield EncodedRow(id, tuple(buffer[start : start + size]), 0)
            id = article.id
        buffer = buffer[end:]
    if len(buffer) > 1:
        yield EncodedRow(id, tuple(buffer), 0)
