"""Rows that a base model writes itself: samples of what it would say, to hold a tuned model to.

They need no data: a row is drawn at temperature 1 from the start of a text, or continues a few common words or the
beginning of a prompt. After the latter, the base writes a question and answers it, as it was trained to (Xu et al.,
Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing, 2024).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lotune.data.tokenized import encode_text, first_ids
from lotune.errors import ModelError
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling

if TYPE_CHECKING:
    from lotune.generate.engine import Engine

OPENINGS = (
    "The", "A", "In", "It is", "There are", "How", "What is", "Why", "Question:", "When", "He", "She", "I", "We",
    "This", "For example,", "First,", "My", "To", "One of the", "在", "这", "我", "请", "什么是", "如何", "为什么",
    "他", "一个", "问题：", "首先，", "例如",
)  # fmt: skip
"""Beginnings of texts of any kind, in English and Chinese."""
PROMPT_FRACTION = 0.5
"""Fraction of the rows that begin as a prompt does, if there are such beginnings."""
FREE_FRACTION = 0.5
"""Fraction of the other rows that begin with nothing but the token that texts begin with."""
MIN_TOKENS = 8
"""Tokens of the shortest row; shorter ones say nothing."""
MIN_DISTINCT = 0.4
"""Fraction of a row's pairs of neighbouring tokens that must be distinct; below it, the row repeats itself."""
MOST_ROUNDS = 3
"""How often rows are drawn again in place of unusable ones."""


@dataclass(frozen=True)
class WrittenRow:
    """A text that a model wrote after an opening."""

    opening: str
    text: str


def write_base_rows(
    engine: Engine,
    tokenizer: Any,
    rows: int,
    *,
    seed: int,
    max_new_tokens: int,
    batch_tokens: int,
    prompts: Sequence[str] = (),
) -> Iterator[WrittenRow]:
    """Yield up to `rows` different rows; empty ones and those that repeat themselves are drawn again, at most twice.

    `prompts` are beginnings of prompts, up to where a question begins.

    Raises: ModelError for a tokeniser without a token that texts begin or end with.
    """
    first = first_ids(tokenizer)
    if not first:
        found = "its tokeniser has no token that texts begin or end with"
        raise ModelError("base.model", found, remedy="retention.replay.source=generator or file, or rows: 0")
    draw, seen = random.Random(f"rows of the base {seed}"), set[WrittenRow]()
    for _ in range(MOST_ROUNDS):
        openings = [_opening(draw, prompts) for _ in range(rows - len(seen))]
        requests = [
            Request(
                _prompt_ids(tokenizer, opening, first[0]), max_new_tokens, label="a row of the base",
                sampling=Sampling(temperature=1.0, seed=draw.getrandbits(63)),
            )
            for opening in openings
        ]  # fmt: skip
        completions = dict(engine.stream(requests, batch_tokens=batch_tokens))
        for number, opening in enumerate(openings):
            row = WrittenRow(opening, completions[number].text)
            if is_usable(completions[number].token_ids) and row.text.strip() and row not in seen:
                seen.add(row)
                yield row
        if len(seen) == rows:
            return


def _opening(draw: random.Random, prompts: Sequence[str]) -> str:
    if prompts and draw.random() < PROMPT_FRACTION:
        return draw.choice(prompts)
    return "" if draw.random() < FREE_FRACTION else draw.choice(OPENINGS)


def _prompt_ids(tokenizer: Any, opening: str, first: int) -> tuple[int, ...]:
    ids = encode_text(tokenizer, opening, first=True) if opening else []
    return tuple(ids) if ids[:1] == [first] else (first, *ids)


def is_usable(ids: Sequence[int]) -> bool:
    """Return whether the tokens of a row say something: enough of them, and not the same few again and again.

    >>> is_usable(range(8)), is_usable(range(7)), is_usable([1, 2] * 20)
    (True, False, False)
    """
    pairs = list(pairwise(ids))
    return len(ids) >= MIN_TOKENS and len(set(pairs)) >= MIN_DISTINCT * len(pairs)
