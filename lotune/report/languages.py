"""Reports and scorecards in another language: their texts, found by pattern, with the same figures.

The English texts are the source, also those that a scorecard has stored. `chinese.json` has the Chinese by English
text, with fields in braces. A text that is not there stays as it is, as do names of tasks, metrics, files and labels.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import orjson

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
_FIELD = re.compile(r"\\{(\w+)\\}")
_NUMBERS = frozenset(
    ("n", "m", "gained", "lost", "won", "unsolved", "steps", "rank", "low", "high", "total", "trained")
)
"""Fields that are numbers; others are any text, as short as it can be."""


def language_of_locale(environment: Mapping[str, str] = os.environ) -> Language:
    """Return the language of the locale in the environment: Chinese for a Chinese one, English for all others.

    >>> language_of_locale({"LANG": "zh_CN.UTF-8"}), language_of_locale({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"})
    ('zh', 'en')
    """
    named = next((environment[name] for name in LOCALE_VARIABLES if environment.get(name)), "")
    return "zh" if named.lower().startswith("zh") else "en"


def translated(text: str, language: Language) -> str:
    """Return a text of a report in a language; the values in it are translated, too.

    >>> translated("12 rows gained, 3 lost, one-sided p = 0.02", "zh")
    '变对 12 行，变错 3 行，单侧 p = 0.02'
    >>> translated("a text of somebody", "zh"), translated("passed", "en")
    ('a text of somebody', 'passed')
    """
    if language == "en":
        return text
    for prefix, chinese in catalogue()["prefixes"].items():
        if text.startswith(prefix):
            return chinese + translated(text.removeprefix(prefix), language)
    for pattern, replacement in _compiled():
        if (found := pattern.fullmatch(text)) is not None:
            values = {name: translated(value, language) for name, value in found.groupdict().items()}
            return replacement.format(**values)
    return text


@functools.cache
def catalogue() -> Mapping[str, Mapping[str, str]]:
    """Return the Chinese by English text: prefixes, words, titles and longer texts."""
    catalogue: dict[str, dict[str, str]] = orjson.loads(Path(__file__).with_name("chinese.json").read_bytes())
    return catalogue


def patterns() -> Mapping[str, str]:
    """Return the Chinese by whole English text."""
    found = catalogue()
    return {**found["words"], **found["titles"], **found["longer"]}


@functools.cache
def _compiled() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return the patterns as regular expressions, those with the most words of their own first.

    A field in braces is a number if it is one of _NUMBERS, else any text, as short as it can be.
    """

    def field(found: re.Match[str]) -> str:
        return rf"(?P<{found[1]}>{'[0-9][0-9,.]*' if found[1] in _NUMBERS else '.+?'})"

    texts = sorted(patterns().items(), key=lambda item: -len(re.sub(r"\{\w+\}", "", item[0])))
    return tuple((re.compile(_FIELD.sub(field, re.escape(english)), re.DOTALL), chinese) for english, chinese in texts)
