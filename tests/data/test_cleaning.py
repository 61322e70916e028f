"""Rules of cleaning: their order, their hits, and what a recipe may not do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data import cleaning
from lotune.data.cleaning import Cleaner, CleaningRule
from lotune.data.corpus import Corpus
from lotune.errors import DataError, SettingsError

RESIDUE = re.compile(r"-\{\s*\}-|</?div[^<>]*>|（[；，\s]*）|\([;,\s]*\)|「\s*」|《\s*》|“\s*”|[\r\n]+")
"""All that the table for WikiExtractor's output removes, in a single pattern."""


def plainly_cleaned(text: str) -> str:
    title, blank, body = text.replace("\r\n", "\n").partition("\n\n")
    body = body if blank else title
    while (shorter := RESIDUE.sub("", body)) != body:
        body = shorter
    return body.strip()


def test_extraction_residue_is_removed() -> None:
    clean = Cleaner("wiki")
    assert clean("题\r\n\r\n甲。") == "甲。"
    assert clean("题\n\n甲（；）乙（，）丙()丁「」戊《》己“”庚（（））辛-{}-壬<div>癸") == "甲乙丙丁戊己庚辛壬癸"
    hits = {rule.name: (rule.hits, rule.articles, rule.examples) for rule in clean.hits}
    assert hits["title"][:2] == (2, 2)
    assert hits["empty （）"][:2] == (4, 1)
    assert hits["empty （）"][2][0].startswith("甲⟦（；）⟧乙")
    assert len(hits["empty （）"][2]) == 3


@given(st.text(st.sampled_from("（）(),，; 「」《》“”-{}\n\r甲<div>/"), max_size=24))
def test_the_table_cleans_as_one_pattern_does(text: str) -> None:
    assert Cleaner("wiki")(text) == plainly_cleaned(text)


@pytest.mark.oracle
def test_real_articles_are_cleaned_as_by_one_pattern(reference_data: Path) -> None:
    file, clean = reference_data / "zh_wiki" / "wiki_zh_AA_00.jsonl", Cleaner("wiki")
    for article in Corpus(file).articles():
        assert clean(article.target) == plainly_cleaned(article.target)


def test_rules_of_a_recipe_follow_in_their_order() -> None:
    rules = (CleaningRule("dash", "—+", "-"), CleaningRule("link", r"\[(\w+)\]", r"\1"), CleaningRule("mark", "-x"))
    clean = Cleaner("none", rules)
    assert clean("a——x [b] --xx") == "a b"
    assert {rule.name: rule.hits for rule in clean.hits} == {"dash": 1, "link": 1, "mark": 3}


def test_a_rule_that_feeds_itself_ends() -> None:
    assert Cleaner("none", (CleaningRule("double", "a", "aa"),))("a") == "aa"


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (CleaningRule("broken", "("), "cannot be used"),
        (CleaningRule("group", "a", r"\2"), "cannot be used"),
        (CleaningRule("nothing", "a*"), "matches the empty text"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(rule: CleaningRule, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        Cleaner("none", (rule,))


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="title"):
        Cleaner("wiki", (CleaningRule("title", "x"),))


def test_a_rule_that_takes_too_long_names_the_article(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "PATTERN_SECONDS", 0.01)
    clean = Cleaner("none", (CleaningRule("slow", r"(?:a|a)+\d$"),))
    with pytest.raises(DataError, match=r"wiki\.jsonl:3.*'slow' takes more than"):
        clean("a" * 60, "wiki.jsonl:3")
