"""Cleaning of articles: an ordered table of rules, and how often each of them changed something.

A rule replaces what its pattern matches. All rules are applied in their order; then those that only remove are applied
again until none of them matches, as brackets that held only empty brackets are empty after a pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from lotune.data.file_readers import truncate_text
from lotune.errors import DataError, SettingsError

Cleaning = Literal["none", "wiki"]
"""Names of the tables of CLEANINGS."""


class CleaningRule(NamedTuple):
    """A rule of cleaning: its name, the regular expression that it looks for, and what replaces a match."""

    name: str
    pattern: str
    replacement: str = ""


WIKI_RULES = (
    CleaningRule("line end", r"\r\n", "\n"),
    CleaningRule("title", r"\A(?s:.*?)\n\n"),
    CleaningRule("language mark", r"-\{\s*\}-"),
    CleaningRule("div tag", r"</?div[^<>]*>"),
    CleaningRule("empty （）", r"（[；，\s]*）"),
    CleaningRule("empty ()", r"\([;,\s]*\)"),
    CleaningRule("empty 「」", r"「\s*」"),
    CleaningRule("empty 《》", r"《\s*》"),
    CleaningRule("empty “”", r"“\s*”"),
    CleaningRule("line break", r"[\r\n]+"),
)
"""What WikiExtractor leaves of a page: its title, and the remains of removed templates and links.

The title is the text before the first blank line. Chinese is written without blanks, so line breaks become nothing.
"""
CLEANINGS: Mapping[Cleaning, tuple[CleaningRule, ...]] = {"none": (), "wiki": WIKI_RULES}
"""The tables by name."""
ONCE = frozenset({"title"})
"""Rules that are applied once: without its title, an article may have another blank line."""
PATTERN_SECONDS = 1.0
"""Longest time that a rule of a recipe may take for one article."""
EXAMPLES, CONTEXT = 3, 15
"""Number of examples that are kept of a rule, and of the characters around one."""

Substitute = Callable[[str], tuple[str, int]]


@dataclass
class RuleHits:
    """How often a rule matched, in how many articles, and the first examples, the match between ⟦ and ⟧."""

    name: str
    hits: int = 0
    articles: int = 0
    examples: list[str] = field(default_factory=list)


class Cleaner:
    """Applies a table of rules to articles, and counts in `hits` what they changed.

    Raises: SettingsError for a pattern that is no regular expression, a replacement that names a group that the pattern
    lacks, or two rules of the same name.
    """

    def __init__(self, cleaning: Cleaning = "none", rules: Sequence[CleaningRule] = ()) -> None:
        table = (*CLEANINGS[cleaning], *rules)
        self.hits = [RuleHits(rule.name) for rule in table]
        names = [rule.name for rule in table]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SettingsError("pretrain.cleaning_rules", f"has the name {twice[0]!r} twice", "a name for each rule")
        compiled = [re.compile(rule.pattern) for rule in CLEANINGS[cleaning]]
        patterns = [*compiled, *(_compiled(rule) for rule in rules)]
        self._steps = list(zip(table, patterns, self.hits, strict=True))
        self._again = [step for step in self._steps if not step[0].replacement and step[0].name not in ONCE]

    def __call__(self, text: str, where: str = "") -> str:
        """Return an article without what the rules remove, and without blanks at both ends.

        `where` names the article in an error. Raises: DataError if a rule of a recipe takes too long for it.
        """
        steps, matched = self._steps, set[str]()
        while steps:
            before = text
            for rule, pattern, hits in steps:
                text = _apply(rule, pattern, hits, text, where, matched)
            # A pass that only replaced leaves nothing more to remove than the next one finds.
            steps = self._again if text != before else []
        return text.strip()


def _apply(rule: CleaningRule, pattern: Any, hits: RuleHits, text: str, where: str, matched: set[str]) -> str:
    limit: dict[str, Any] = {} if isinstance(pattern, re.Pattern) else {"timeout": PATTERN_SECONDS}
    try:
        result, count = pattern.subn(rule.replacement, text, **limit)
        if count and len(hits.examples) < EXAMPLES:
            hits.examples.extend(islice(_examples(pattern, text), EXAMPLES - len(hits.examples)))
    except TimeoutError:
        found = f"the cleaning rule {rule.name!r} takes more than {PATTERN_SECONDS:g} s"
        raise DataError(where, found, remedy="simplify its pattern in pretrain.cleaning_rules") from None
    if count:
        hits.hits += count
        hits.articles += rule.name not in matched
        matched.add(rule.name)
    return str(result)


def _examples(pattern: Any, text: str) -> Iterator[str]:
    for match in pattern.finditer(text):
        before, after = text[max(0, match.start() - CONTEXT) : match.start()], text[match.end() :][:CONTEXT]
        yield f"{truncate_text(before)}⟦{truncate_text(repr(match[0])[1:-1], 60)}⟧{truncate_text(after)}"


def _compiled(rule: CleaningRule) -> Any:
    import regex

    # A recipe may come from others, and `re` has no time limit.
    try:
        pattern = regex.compile(rule.pattern)
        if pattern.search("", timeout=PATTERN_SECONDS):
            fault = "matches the empty text, everywhere in an article"
        else:
            regex.sub(rf"(?:{rule.pattern})|\Z", rule.replacement, "", timeout=PATTERN_SECONDS)
            return pattern
    except (regex.error, TimeoutError, IndexError) as error:
        fault = f"cannot be used: {error}"
    expected = "a regular expression, and a replacement that names no other groups than it has"
    raise SettingsError("pretrain.cleaning_rules", f"the rule {rule.name!r} {fault}", expected) from None
