"""Choose the scorer that fits the reference answers of a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import median

from lotune.tasks.columns import is_number
from lotune.tasks.scorers import REFERENCE_SCORER

LONG = 60
"""Median length of answers, in columns of text, above which they are long; a Chinese character takes two."""
_MOST = 0.95
"""Fraction of the answers that decides their kind."""
# GSM8K's references end like this; what stands before is the way to the number.
_FINAL_NUMBER = re.compile(r"#### *-?[\d.,]+\s*$")


def scorer_for(answers: Sequence[str]) -> tuple[str, str]:
    """Return the scorer for reference answers, and the reason in words.

    >>> scorer_for(["3.14", "2.72"])
    ('significant:5', 'the answers are numbers')
    >>> scorer_for(["Kunming", "Lu Xun"])
    ('exact', 'the answers are short: half of them have at most 6 characters')
    """
    texts = [answer.strip() for answer in answers if answer.strip()]
    if not texts:
        return "exact", "no answer is there to judge by"
    if _fraction(texts, is_number) >= _MOST:
        # A code of many digits is right or wrong as a whole.
        if any(re.fullmatch(r"\d{6,}", text) for text in texts):
            return "exact", "the answers are numbers of many digits, without a fraction"
        return "significant:5", "the answers are numbers"
    if _fraction(texts, _FINAL_NUMBER.search) >= _MOST:
        return "number", "the answers end in a number"
    length = median(map(_width, texts))
    if length > LONG:
        # Many texts would do: equality and common words say little, the likelihood of the references moves.
        return (
            REFERENCE_SCORER,
            f"the answers are long: half of them have more than {int(median(map(len, texts)))} characters",
        )
    return "exact", f"the answers are short: half of them have at most {int(median(map(len, texts)))} characters"


def _width(text: str) -> int:
    """Return the number of columns of a text on a terminal: two for a Chinese character."""
    return len(text) + sum("\u2e80" <= character <= "\uffdc" for character in text)


def _fraction(texts: Sequence[str], condition: Callable[[str], object]) -> float:
    return sum(map(bool, map(condition, texts))) / len(texts)
