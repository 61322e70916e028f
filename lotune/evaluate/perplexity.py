"""Perplexity per token and bits per byte of texts.

Tensors stay in `lotune/generate/loglikelihood.py`; here are windows of token ids and sums of log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import orjson

from lotune.data.examples import Example
from lotune.data.tokenized import encode_text, first_ids
from lotune.errors import DataError
from lotune.evaluate.statistics import Interval, bootstrap_ratio
from lotune.generate.loglikelihood import Continuation, LogLikelihood
from lotune.record_files import record_lines

# Enough to fill batches with windows of similar length; a crash loses the results of one group.
ARTICLES_AT_ONCE = 64
"""Articles that are tokenised and scored together."""


@dataclass(frozen=True)
class TextLoss:
    """Loss of one text: `nats` is the sum of -ln p over its `tokens`, `bytes` its length in UTF-8."""

    id: str
    nats: float
    tokens: int
    bytes: int


def score_texts(
    model: Any, tokenizer: Any, articles: Iterable[Example], *, context: int, batch_tokens: int
) -> Iterator[TextLoss]:
    """Yield the loss of each text.

    A begin-of-text token (or end-of-text, if the tokeniser has none) precedes each text, so that its first token
    counts. A text longer than the context is scored in windows that overlap by half: beyond the first window, every
    token has at least half a context before it.

    Raises: DataError for a tokeniser with neither token, or a context below four tokens; NotFiniteLogitsError.
    """
    first = first_ids(tokenizer)
    if not first or context < 4:
        raise DataError("texts", "need a token to begin with, and a context of four", "bos_token or eos_token")
    remaining, likelihood = iter(articles), LogLikelihood(model)
    while group := list(islice(remaining, ARTICLES_AT_ONCE)):
        windows = [
            sliding_windows(encode_text(tokenizer, article.target), first[0], context, f"article {article.id}")
            for article in group
        ]
        rows = [window for article_windows in windows for window in article_windows]
        scores = iter(likelihood.score(rows, batch_tokens=batch_tokens))
        for article, article_windows in zip(group, windows, strict=True):
            values = [value for _ in article_windows for value in next(scores)]  # log-probability of each token
            yield TextLoss(article.id, -math.fsum(values), len(values), len(article.target.encode()))


def parse_texts(lines: bytes) -> list[TextLoss]:
    """Parse losses from lines of JSON, ignoring other fields and text after the last line break.

    Raises: DataError for a line without a loss.
    """
    names = [field.name for field in fields(TextLoss)]
    try:
        return [TextLoss(*(orjson.loads(line)[name] for name in names)) for _, line in record_lines(lines)]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise DataError("figures of texts", "a line holds none", f"JSON with {', '.join(names)}") from None


def sliding_windows(ids: Sequence[int], first: int, context: int, where: str = "") -> list[Continuation]:
    """Return windows of at most `context` tokens, each scored after its first half (the first one from the start).

    `where` names them in messages.

    >>> [(window.prompt_ids, window.ids) for window in sliding_windows([11, 12, 13, 14, 15, 16], 1, 4)]
    [((1,), (11, 12, 13)), ((12, 13), (14, 15)), ((14, 15), (16,))]
    """
    tokens, half, windows, done = (first, *ids), context // 2, [], 1
    # A stride of half a context costs two passes over a text; a stride of one token, the most exact, would cost
    # `context` times as many tokens.
    while done < len(tokens):
        start = max(0, done - half)
        windows.append(Continuation(tokens[start:done], tokens[done : start + context], where))
        done = start + context
    return windows


def summarise(texts: Sequence[TextLoss]) -> dict[str, Any]:
    """Return perplexity per token and bits per byte of all texts together, with bootstrap intervals over texts (95 %).

    An interval is None if it cannot be estimated, for example for a single text.

    Raises: DataError if there is no token.
    """
    if not any(text.tokens for text in texts):
        raise DataError("texts", "have no token", "articles with text", "check the file and the cleaning")
    # Totals, so that every token has the same weight, as in the training loss.
    nats, tokens, sizes = ([getattr(text, name) for text in texts] for name in ("nats", "tokens", "bytes"))
    loss, bits = math.fsum(nats) / sum(tokens), math.fsum(nats) / math.log(2)
    interval = bootstrap_ratio(nats, tokens)
    return {
        "perplexity": math.exp(loss),
        "perplexity_interval": interval and Interval(*map(math.exp, interval)),
        # Comparable between tokenisers, which perplexity per token is not.
        "bits_per_byte": bits / sum(sizes),
        "bits_per_byte_interval": bootstrap_ratio([nat / math.log(2) for nat in nats], sizes),
        "texts": len(texts),
        "tokens": sum(tokens),
        "bytes": sum(sizes),
    }
