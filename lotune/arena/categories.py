"""Language and category of a prompt, by plain rules, for the filters of a leaderboard."""

from __future__ import annotations

import re

LANGUAGES = ("zh", "en", "other")
CATEGORIES = ("math", "code", "long", "other")
LONG_CHARACTERS = 500
"""Characters from which a prompt counts as long."""
_CJK = re.compile(r"[\u3400-\u9fff]")
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]")
_LATIN = re.compile(r"[A-Za-z]")
_CODE = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|#include|\bimport \w+|</?\w+>|\bSELECT\b.+\bFROM\b"
    r"|\b(?:python|javascript|java|c\+\+|sql|bash|regex|rust|html|css)\b|代码|编程|函数实现",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\d\s*[-+*/×÷^=]\s*\d|\b(?:solve|equation|integral|derivative|probability|calculate|compute|sum of|percent)\b"
    r"|计算|方程|多少|概率|求解|等于|平均",
    re.IGNORECASE,
)


def language(prompt: str) -> str:
    """Return zh, en or other, by the script of most letters.

    >>> [language(text) for text in ("3 加 5 等于多少？", "What is 3 + 5?", "Сколько будет 3 + 5?", "3 + 5")]
    ['zh', 'en', 'other', 'other']
    """
    counts = {name: len(p.findall(prompt)) for name, p in (("zh", _CJK), ("en", _LATIN), ("other", _OTHER_SCRIPT))}
    counts["zh"] *= 2  # a character says more than a letter
    if (counts["zh"] and _OTHER_SCRIPT.search(prompt) is None) or counts["zh"] > counts["other"]:
        counts["other"] = 0
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "other"


def category(prompt: str) -> str:
    """Return math, code, long or other, the first that fits.

    >>> [category(text) for text in ("3 + 5 = ?", "Write a Python function.", "a" * 600, "Who are you?")]
    ['math', 'code', 'long', 'other']
    """
    if _CODE.search(prompt):
        return "code"
    if _MATH.search(prompt):
        return "math"
    return "long" if len(prompt) >= LONG_CHARACTERS else "other"
