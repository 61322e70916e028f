"""Style of answers as covariates of a vote: length, headings, bold passages and lists.

Each feature of a battle is the difference of the two counts, divided by their sum, as on LMArena's leaderboard
(lmarena.ai/blog/style-control), and divided by its standard deviation over all votes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lotune.arena.ratings import Floats

FEATURES = ("length", "headings", "bold", "lists")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_PATTERNS = (
    re.compile(r"^#{1,6}\s", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    re.compile(r"^\s*(?:[-*+]|\d+[.)])\s", re.MULTILINE),
)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def style_counts(text: str) -> tuple[int, ...]:
    r"""Return the counts of the features of an answer; what stands in blocks of code has length only.

    >>> style_counts("# A plan\n- **buy** bread\n- eat")
    (5, 1, 1, 2)
    """
    length = len(_CJK.findall(text)) + len(_WORD.findall(text))
    plain = _CODE.sub("", text)
    return (length, *(len(pattern.findall(plain)) for pattern in _PATTERNS))


def style_differences(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> Floats:
    """Return the features of votes (V, K) from the counts of both answers; a feature that never differs is 0."""
    a, b = (np.asarray(counts, np.float64).reshape(-1, len(FEATURES)) for counts in (first, second))
    total = a + b
    differences: Floats = np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)
    spread = differences.std(0)
    scaled: Floats = np.divide(differences, spread, out=np.zeros_like(differences), where=spread > 0)
    return scaled
