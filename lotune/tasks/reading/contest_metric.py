"""The contest's reading metric, "EmF1": F1 of the longest common run of tokens, and exact match. It is not SQuAD's.

Source: the contest's retention protocol, modelled on CMRC 2018's metric. It differs from SQuAD's official metric:
articles and ASCII `. , ' " ( ) ! ? ;` remain, a fixed set of symbols is dropped, each Chinese character is a token,
everything else is split by jieba (a blank is a token), and only tokens in one contiguous run count as common.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

IGNORED_SYMBOLS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""Symbols that are dropped before two answers are compared. The list is the contest's, its gaps included."""


def contest_f1_em(prediction: str, label: str) -> tuple[float, float]:
    """Return F1 and EM of one answer, each 0 to 100. Two answers that are empty without the symbols have F1 0, EM 100.

    Of the label's 8 tokens (`new`, blank, `orleans`, `'`, blank, `mercedesbenz`, blank, `superdome`) 3 are common:

    >>> contest_f1_em("Mercedes-Benz Superdome", "New Orleans' Mercedes-Benz Superdome")
    (54.54545454545455, 0.0)
    >>> contest_f1_em("the Denver Broncos", "Denver Broncos")[1]
    0.0
    """
    answer, reference = normalise_contest_answer(prediction), normalise_contest_answer(label)
    answer_tokens, reference_tokens = contest_tokens(answer), contest_tokens(reference)
    # The contest calls it a subsequence, but its published scores are those of a contiguous run.
    common = longest_common_run(answer_tokens, reference_tokens)
    f1 = 200.0 * common / (len(answer_tokens) + len(reference_tokens)) if common else 0.0
    return f1, 100.0 * (answer == reference)


def normalise_contest_answer(text: str) -> str:
    """Return the text in lower case, stripped, and then without the ignored symbols.

    >>> normalise_contest_answer(" Mercedes-Benz, Inc. ")
    'mercedesbenz, inc.'
    """
    return "".join(character for character in text.lower().strip() if character not in IGNORED_SYMBOLS)


def contest_tokens(text: str) -> list[str]:
    """Return the Chinese characters (U+4E00 to U+9FA5) and, between them, jieba's tokens of a text.

    >>> contest_tokens("光荣和force 24")
    ['光', '荣', '和', 'force', ' ', '24']
    """
    tokens: list[str] = []
    start = 0
    for position, character in enumerate(text):
        if "\u4e00" <= character <= "\u9fa5":
            tokens += _cut(text[start:position])
            tokens.append(character)
            start = position + 1
    return tokens + _cut(text[start:])


def longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest contiguous run of elements that both have.

    >>> longest_common_run("abxcd", "abcd")
    2
    """
    longest, previous = 0, [0] * (len(second) + 1)
    for a in first:
        # lengths[j]: length of the common run that ends at `a` and at second[j - 1]
        lengths = [0]
        for column, b in enumerate(second):
            lengths.append(previous[column] + 1 if a == b else 0)
        longest, previous = max(longest, *lengths), lengths
    return longest


def _cut(text: str) -> list[str]:
    return _segmenter()(text) if text else []


@lru_cache(maxsize=1)
def _segmenter() -> Callable[[str], list[str]]:
    """Return jieba's tokenizer with its dictionary loaded, without its messages and warnings."""
    # Imported here: loading the dictionary takes about a second, and only this metric needs it.
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba

        jieba.setLogLevel(logging.CRITICAL)
        jieba.initialize()
    cut: Callable[[str], list[str]] = jieba.lcut
    return cut
