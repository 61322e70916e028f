"""How well a model foretells texts: perplexity a token, bits a byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import orjson

from lotune.data.examples import Example
from lotune.data.tokenized import encode_text
from lotune.errors import DataError
from lotune.evaluate.statistics import Interval, bootstrap_ratio
from lotune.generate.loglikelihood import Continuation, LogLikelihood

ARTICLES_AT_ONCE = 64


@dataclass(frozen=True)
class TextLoss:
    """One text: `nats` is the sum of -ln p over its `tokens`, `bytes` its length in UTF-8."""

    id: str
    nats: float
    tokens: int
    bytes: int


def score_texts(
    model: Any, tokenizer: Any, articles: Iterable[Example], *, context: int, batch_tokens: int
) -> Iterator[TextLoss]:
    """The figures of each text as it is read.

    A text follows a begin-of-text (where the tokeniser has none, an end-of-text), so that its first token counts too.
    One that is longer than the context is read in windows that overlap by half: beyond the first window every token is
    foretold from half a context at least.

    Raises: DataError for a tokeniser that has neither, or a context of fewer than four tokens; NotFiniteLogitsError
    where logits are not finite.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None or context < 4:
        raise DataError("texts", "need a token to begin with, and a context of four", "bos_token or eos_token")
    left, likelihood = iter(articles), LogLikelihood(model)
    while group := list(islice(left, ARTICLES_AT_ONCE)):
        cut = [
            sliding_windows(encode_text(tokenizer, one.target), first, context, f"article {one.id}") for one in group
        ]
        rows = [window for its in cut for window in its]
        found = iter(likelihood.score(rows, batch_tokens=batch_tokens))
        for article, its in zip(group, cut, strict=True):
            values = [value for _ in its for value in next(found)]
            yield TextLoss(article.id, -math.fsum(values), len(values), len(article.target.encode()))


def parse_texts(lines: bytes) -> list[TextLoss]:
    """Figures from lines of JSON, whatever else stands beside them; what follows the last line break is left out.

    Raises: DataError for a line that holds none.
    """
    names = [one.name for one in fields(TextLoss)]
    try:
        return [TextLoss(*(orjson.loads(line)[name] for name in names)) for line in lines.split(b"\n")[:-1] if line]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise DataError("figures of texts", "a line holds none", f"JSON with {', '.join(names)}") from None


def sliding_windows(ids: Sequence[int], first: int, context: int, where: str = "") -> list[Continuation]:
    """Rows of `context` tokens at most, each of which foretells what follows its first half (the first: all).

    `where` names them in messages.

    >>> [(row.prompt_ids, row.ids) for row in sliding_windows([11, 12, 13, 14, 15, 16], 1, 4)]
    [((1,), (11, 12, 13)), ((12, 13), (14, 15)), ((14, 15), (16,))]
    """
    whole, half, rows, done = (first, *ids), context // 2, [], 1
    while done < len(whole):
        start = max(0, done - half)
        rows.append(Continuation(whole[start:done], whole[done : start + context], where))
        done = start + context
    return rows


def summarise(texts: Sequence[TextLoss]) -> dict[str, Any]:
    """Perplexity a token and bits a byte of all texts together, each with its bootstrap interval over texts (95 %).

    An interval is None where it is not estimable, as of one text.
    Raises: DataError where there is no token.
    """
    if not any(text.tokens for text in texts):
        raise DataError("texts", "have no token", "articles with text", "check the file and the cleaning")
    nats, tokens, sizes = ([getattr(text, name) for text in texts] for name in ("nats", "tokens", "bytes"))
    loss, bits = math.fsum(nats) / sum(tokens), math.fsum(nats) / math.log(2)
    limits = bootstrap_ratio(nats, tokens)
    return {
        "perplexity": math.exp(loss),
        "perplexity_interval": limits and Interval(*map(math.exp, limits)),
        "bits_per_byte": bits / sum(sizes),
        "bits_per_byte_interval": bootstrap_ratio([nat / math.log(2) for nat in nats], sizes),
        "texts": len(texts),
        "tokens": sum(tokens),
        "bytes": sum(sizes),
    }
