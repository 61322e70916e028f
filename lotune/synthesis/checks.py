"""Whether a reply follows the rules: number and form of the pairs, lengths, subjects, grounding, no question twice."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from lotune.synthesis.settings import PairRules

_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_PRONOUN = re.compile(
    r"^(?:这|那|该|此|其(?!他)|它|本(?:文|书|片|剧|作|节)|文中|文章|上述|上文)"
    r"|(?<!其)[他她它](?!人|国|乡)|他们|她们|它们"
    r"|^(?:this|that|these|those)\b|\b(?:he|she|it|they|him|his|its|their|them|her)\b|\bthe (?:article|text|passage)\b",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_HAN = re.compile(r"[\u3400-\u9fff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]")


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str


class ReplyError(Exception):
    """A reply breaks a rule: `kind` is the name of the rule, the text says what was found."""

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(found)
        self.kind = kind


def read_pairs(reply: str) -> list[Pair]:
    """Return the pairs of a reply: an object with `pairs`, a list, or one object a line, in a code block or not.

    Raises: ReplyError("form").
    """
    text = _THOUGHT.sub("", reply).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        try:
            content = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise ReplyError("form", "it is not JSON") from None
    if isinstance(content, dict):
        content = content.get("pairs", [content])
    if not isinstance(content, list):
        raise ReplyError("form", "it has no list of pairs")
    pairs = []
    for number, item in enumerate(content, 1):
        values = [item.get(key) for key in ("question", "answer")] if isinstance(item, dict) else [None]
        if not all(isinstance(value, str) for value in values) or len(item) != 2:
            raise ReplyError("form", f"pair {number} is not an object of a question and an answer")
        pairs.append(Pair(*(str(value).strip() for value in values)))
    return pairs


def check_reply(reply: str, article: str, rules: PairRules, known: Callable[[Pair], bool]) -> list[Pair]:
    """Return the pairs of a reply that follows all rules; `known` says whether a pair was written before.

    Raises: ReplyError with the first rule that is broken.
    """
    pairs = read_pairs(reply)
    if not rules.fewest <= len(pairs) <= rules.most:
        raise ReplyError("count", f"it has {len(pairs)} pairs, not {rules.fewest} to {rules.most}")
    terms, seen = article_terms(article), set[str]()
    for number, pair in enumerate(pairs, 1):
        for name, text, (low, high) in (
            ("question", pair.question, rules.question_characters),
            ("answer", pair.answer, rules.answer_characters),
        ):
            if not low <= len(text) <= high:
                raise ReplyError(
                    "length", f"the {name} of pair {number} has {len(text)} characters, not {low} to {high}"
                )
            if _CONTROL.search(text):
                raise ReplyError("characters", f"the {name} of pair {number} has a character that is no text")
        if not rules.pronouns and (found := _PRONOUN.search(pair.question)):
            raise ReplyError("pronoun", f"the question of pair {number} has {found[0]!r} in place of its subject")
        if (share := grounded_share(pair.answer, terms)) < rules.grounding:
            raise ReplyError("grounding", f"only {share:.0%} of the answer of pair {number} stand in the article")
        key = question_key(pair.question)
        if key in seen:
            raise ReplyError("repeated", f"the question of pair {number} is there twice")
        seen.add(key)
        if known(pair):
            raise ReplyError("known", f"the question of pair {number} was asked about another article")
    return pairs


def article_terms(text: str) -> set[str]:
    """Return the words of a text, and its pairs of neighbouring Chinese characters."""
    tokens = _TOKEN.findall(_plain(text))
    return {*tokens, *_bigrams(tokens)}


def grounded_share(answer: str, terms: set[str]) -> float:
    """Return the share of an answer's words and pairs of characters that an article has; 1 for an answer without any.

    A number counts where the article has it; a word of one Chinese character alone counts as itself.
    """
    tokens = _TOKEN.findall(_plain(answer))
    parts = [*(token for token in tokens if not _HAN.match(token)), *_bigrams(tokens)] or tokens
    return sum(part in terms for part in parts) / len(parts) if parts else 1.0


def question_key(question: str) -> str:
    """Return a question without case, width, blanks and punctuation: equal ones ask the same.

    >>> question_key("诗人 李白 生于哪年？") == question_key("诗人李白生于哪年?")
    True
    """
    return "".join(character for character in _plain(question) if character.isalnum())


def near_key(pair: Pair) -> str:
    """Return a key that pairs share whose questions have the same characters in any order, and the same answer."""
    filler = set("的了吗呢是")
    characters = sorted(c for c in question_key(pair.question) if c not in filler)
    return f"{''.join(characters)}\n{question_key(pair.answer)}"


def _bigrams(tokens: list[str]) -> list[str]:
    return [a + b for a, b in pairwise(tokens) if _HAN.match(a) and _HAN.match(b)]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
