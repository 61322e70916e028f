"""The contest's reading metric, "EmF1": F1 of the longest common run of segments, and equality. It is not SQuAD's.

Source: the contest's retention protocol, modelled on CMRC 2018's metric. What differs from SQuAD's official metric:
articles and ASCII `. , ' " ( ) ! ? ;` stay, a fixed set of symbols goes, Chinese characters are segments of their own,
everything else is segmented by jieba (a blank is a segment), and only segments in one unbroken run count as common.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

IGNORED_SYMBOLS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""Symbols that are taken out before two answers are compared."""


def contest_f1_em(prediction: str, label: str) -> tuple[float, float]:
    """F1 and EM of one answer, each 0 to 100; two answers of which nothing is left have F1 0 and EM 100.

    Of the label's 8 segments (`new`, blank, `orleans`, `'`, blank, `mercedesbenz`, blank, `superdome`) 3 are common:

    >>> contest_f1_em("Mercedes-Benz Superdome", "New Orleans' Mercedes-Benz Superdome")
    (54.54545454545455, 0.0)
    >>> contest_f1_em("the Denver Broncos", "Denver Broncos")[1]
    0.0
    """
    predicted, wanted = normalise_contest_answer(prediction), normalise_contest_answer(label)
    ours, theirs = contest_tokens(predicted), contest_tokens(wanted)
    common = longest_common_run(ours, theirs)
    f1 = 200.0 * common / (len(ours) + len(theirs)) if common else 0.0
    return f1, 100.0 * (predicted == wanted)


def normalise_contest_answer(text: str) -> str:
    """The text in lower case, stripped, without the dropped symbols, in this order.

    >>> normalise_contest_answer(" Mercedes-Benz, Inc. ")
    'mercedesbenz, inc.'
    """
    return "".join(character for character in text.lower().strip() if character not in IGNORED_SYMBOLS)


def contest_tokens(text: str) -> list[str]:
    """The text cut into Chinese characters (U+4E00 to U+9FA5) and, between them, jieba's segments.

    >>> contest_tokens("光荣和force 24")
    ['光', '荣', '和', 'force', ' ', '24']
    """
    found: list[str] = []
    start = 0
    for position, character in enumerate(text):
        if "\u4e00" <= character <= "\u9fa5":
            found += _cut(text[start:position])
            found.append(character)
            start = position + 1
    return found + _cut(text[start:])


def longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest run of consecutive elements that both have.

    >>> longest_common_run("abxcd", "abcd")
    2
    """
    longest, before = 0, [0] * (len(second) + 1)
    for element in first:
        lengths = [0]
        for column, other in enumerate(second):
            lengths.append(before[column] + 1 if element == other else 0)
        longest, before = max(longest, *lengths), lengths
    return longest


def _cut(text: str) -> list[str]:
    return _segmenter()(text) if text else []


@lru_cache(maxsize=1)
def _segmenter() -> Callable[[str], list[str]]:
    """The cut of jieba, its dictionary loaded, its messages and the warnings of its import kept quiet."""
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba

        jieba.setLogLevel(logging.CRITICAL)
        jieba.initialize()
    cut: Callable[[str], list[str]] = jieba.lcut
    return cut
