"""CMRC 2018's official metric: F1 of the longest common run of segments, and equality, the best over all gold answers.

Source: Cui et al., "A Span-Extraction Dataset for Chinese Machine Reading Comprehension" (2019), and version 6 of their
evaluation script. The contest's metric (`emf1`) is modelled on it and drops the same symbols; it differs in that it
looks at the first gold answer only, and cuts what is not Chinese by jieba. The script cuts that by NLTK's
`word_tokenize`; the rules of the Penn Treebank that it follows (MacIntyre, 1995) are written out here, but for two:
opening and closing quotation marks are alike, and a full stop is only cut off at the end of what is not Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lotune.tasks.reading.contest_metric import longest_common_run, normalise_contest_answer

_ALONE = re.compile(
    r"\.{2,}|[;@#$%&?!()\[\]{}<>\"«»‘„–—]"
    r"|,(?!\d)|\.(?=[)\]}>\"'» ]*$)"  # 1,000 and 2.5 are one word each
    r"|'(?:s|m|d|ll|re|ve)(?!\w)|n't(?!\w)|\bcan(?=not\b)|'(?=\s|$)|(?<!\S)'(?=\w)"
)
"""What is a word of its own though no blank stands beside it."""


def cmrc_scores(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """F1 and EM of one answer, each 0 to 100: the best over all gold answers, each figure for itself.

    >>> cmrc_scores("1990年", ["1990年12月"])  # 2 segments of 2, and of 4, stand in one run
    (66.66666666666667, 0.0)
    >>> cmrc_scores("《光荣》", ["光荣和使命", "光荣"])
    (100.0, 100.0)
    """
    found = normalise_contest_answer(prediction)
    wanted = [normalise_contest_answer(gold) for gold in golds]
    f1 = max((_f1(cmrc_tokens(found), cmrc_tokens(gold)) for gold in wanted), default=0.0)
    return f1, 100.0 * (found in wanted)


def cmrc_tokens(text: str) -> list[str]:
    """The text cut into Chinese characters (U+4E00 to U+9FA5) and, between them, words; blanks are none.

    >>> cmrc_tokens("光荣和 force 24, don't")
    ['光', '荣', '和', 'force', '24', ',', 'do', "n't"]
    """
    return re.sub("[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", lambda run: f" {_apart(run[0])} ", text).split()


def _apart(run: str) -> str:
    return _ALONE.sub(r" \g<0> ", run)


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    common = longest_common_run(found, wanted)
    return 200.0 * common / (len(found) + len(wanted)) if common else 0.0
