"""CMRC 2018's official metric: F1 of the longest common run of tokens, and exact match, over all gold answers.

Source: Cui et al., "A Span-Extraction Dataset for Chinese Machine Reading Comprehension" (2019), and version 6 of their
evaluation script. The contest's metric (`contest_metric`) is modelled on it and drops the same symbols. It uses the
first gold answer only and splits text that is not Chinese by jieba. The script splits that by NLTK's `word_tokenize`,
which follows the Penn Treebank (MacIntyre, 1995). Its rules are written out here, so that NLTK is not needed, with two
simplifications: opening and closing quotation marks are alike, and a full stop is split off only at the end of a run
that is not Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lotune.tasks.reading.contest_metric import longest_common_run, normalise_contest_answer

_SEPARATE_TOKENS = re.compile(
    r"\.{2,}|[;@#$%&?!()\[\]{}<>\"«»‘„–—]"
    r"|,(?!\d)|\.(?=[)\]}>\"'» ]*$)"  # 1,000 and 2.5 are one token each
    r"|'(?:s|m|d|ll|re|ve)(?!\w)|n't(?!\w)|\bcan(?=not\b)|'(?=\s|$)|(?<!\S)'(?=\w)"
)
"""Tokens that are split off without a blank beside them: punctuation, and clitics as in "don't" and "cannot"."""


def cmrc_scores(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Return F1 and EM of one answer, each 0 to 100, each the maximum over all gold answers.

    >>> cmrc_scores("1990年", ["1990年12月"])  # a run of 2 tokens, of 2 and of 4
    (66.66666666666667, 0.0)
    >>> cmrc_scores("《光荣》", ["光荣和使命", "光荣"])
    (100.0, 100.0)
    """
    answer = normalise_contest_answer(prediction)
    references = [normalise_contest_answer(gold) for gold in golds]
    f1 = max((_f1(cmrc_tokens(answer), cmrc_tokens(reference)) for reference in references), default=0.0)
    return f1, 100.0 * (answer in references)


def cmrc_tokens(text: str) -> list[str]:
    """Return the Chinese characters (U+4E00 to U+9FA5) and, between them, the words of a text; blanks are dropped.

    >>> cmrc_tokens("光荣和 force 24, don't")
    ['光', '荣', '和', 'force', '24', ',', 'do', "n't"]
    """
    return re.sub("[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", lambda run: f" {_split_off(run[0])} ", text).split()


def _split_off(run: str) -> str:
    return _SEPARATE_TOKENS.sub(r" \g<0> ", run)


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    common = longest_common_run(answer, reference)
    return 200.0 * common / (len(answer) + len(reference)) if common else 0.0
