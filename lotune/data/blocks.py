"""Cut encoded articles into blocks of tokens for pre-training."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from lotune.data.tokenized import EncodedRow

Chunking = Literal["first_block", "sentences", "stream"]
SENTENCE_ENDS = "。！？.!?"


def sentence_ends(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens whose text ends a sentence."""
    return frozenset(
        token for token in range(len(tokenizer)) if tokenizer.decode([token]).rstrip().endswith(tuple(SENTENCE_ENDS))
    )


def chunk_articles(
    articles: Iterable[EncodedRow], size: int, chunking: Chunking, ends: frozenset[int], counts: Counter[str]
) -> Iterator[EncodedRow]:
    """Yield blocks of at most `size` tokens from encoded articles; every token of a block is in the loss.

    - `first_block`: as many whole sentences from the start of each article as fit, then end-of-text.
    - `sentences`: all whole sentences, in as many blocks as needed, the last of which ends with end-of-text. A sentence
      longer than a block is left out.
    - `stream`: the articles one after the other, cut every `size` tokens.

    `ends` are the ids of tokens that end a sentence. An article without a sentence that fits is dropped. The numbers of
    articles, blocks and dropped articles are added to `counts`.
    """
    if chunking == "stream":
        blocks = _stream(articles, size, counts)
    else:
        blocks = _by_sentence(articles, size, chunking, ends, counts)
    for block in blocks:
        counts["blocks"] += 1
        yield block


def _by_sentence(
    articles: Iterable[EncodedRow], size: int, chunking: Chunking, ends: frozenset[int], counts: Counter[str]
) -> Iterator[EncodedRow]:
    for article in articles:
        *text, eos = article.token_ids
        sentence_ends = [index + 1 for index, token in enumerate(text) if token in ends]
        counts["articles"] += 1
        spans = list(_whole_sentences([0, *sentence_ends], size - 1))  # one token is reserved for end-of-text
        if chunking == "first_block":
            spans = [span for span in spans[:1] if span[0] == 0]
        for start, stop in spans:
            is_last = (start, stop) == spans[-1]
            yield EncodedRow(article.id, (*text[start:stop], *([eos] if is_last else ())), 0)
        counts["dropped"] += not spans


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
