"""Passages are sound SQuAD rows, of the promised lengths, and unseen names are unseen."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from lotune.tasks.reading import templates_en
from lotune.tasks.reading.passage_generator import (
    LENGTHS,
    Language,
    coin_name,
    is_unseen,
    passages,
    sentences,
)
from lotune.tasks.reading.templates_zh import CHINESE

ROWS = 400


@pytest.mark.parametrize("language", ["zh", "en", "both"])
@pytest.mark.parametrize("names", ["train", "unseen"])
def test_every_answer_occurs_once_at_its_offset(language: Language, names: str) -> None:
    ids = []
    for paragraph in passages(ROWS, 3, language, names):  # type: ignore[arg-type]
        assert 2 <= len(paragraph["qas"]) <= 4
        for qa in paragraph["qas"]:
            (answer,) = qa["answers"]
            start, text = answer["answer_start"], answer["text"]
            assert text
            assert paragraph["context"][start : start + len(text)] == text
            assert paragraph["context"].count(text) == 1
            assert "{" not in qa["question"]
            ids.append(qa["id"])
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_lengths(language: Language) -> None:
    least, most = LENGTHS[language]
    for paragraph in passages(ROWS, 4, language):
        context = paragraph["context"]
        length = len(context.split()) if language == "en" else len(context)
        assert least <= length <= most
        assert 3 <= len(re.findall(r"[.。](?: |$|(?<=。))", context)) <= 5


def test_the_same_arguments_give_the_same_passages_and_others_do_not() -> None:
    first = list(passages(20, 5, "both"))
    assert first == list(passages(20, 5, "both"))
    assert first == list(itertools.islice(passages(50, 5, "both"), 20))
    assert {p["context"] for p in first}.isdisjoint(p["context"] for p in passages(20, 6, "both"))
    assert list(sentences(20, 5, "both")) == list(sentences(20, 5, "both"))


def test_half_of_the_passages_have_a_distractor_with_the_same_relation() -> None:
    def likes(text: str) -> bool:
        return text.count("公里") >= 2  # two rivers with their lengths

    rivers = [p["context"] for p in passages(6000, 7, "zh") if p["title"][-1] in "河江" and "公里" in p["context"]]
    share = sum(map(likes, rivers)) / len(rivers)
    assert 0.35 < share < 0.75


@pytest.mark.parametrize("language", ["zh", "en"])
def test_train_never_coins_an_unseen_name(language: str) -> None:
    random = Random(0)
    train = {coin_name(random, language, "train") for _ in range(3000)}
    unseen = {coin_name(random, language, "unseen") for _ in range(3000)}
    assert train.isdisjoint(unseen)
    assert not any(map(is_unseen, train))
    assert all(map(is_unseen, unseen))


def test_names_in_unseen_passages_are_not_in_training_passages() -> None:
    coined = re.compile(r"[A-Z][a-z]{3,}")
    plain = set(coined.findall(" ".join(wording for texts in templates_en.ENGLISH.values() for wording in texts)))
    plain |= set(coined.findall(" ".join(templates_en.SHAPES["en"].values()) + templates_en.EVERYDAY["en"]))

    def found(names: str) -> set[str]:
        titles = [p["title"] for p in passages(1500, 8, "en", names)]  # type: ignore[arg-type]
        words = {word for title in titles for word in coined.findall(title)}
        return {re.sub("(ton|ford)$", "", word) for word in words} - plain - {"Star", "Wind"}

    assert found("unseen").isdisjoint(found("train"))


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from lotune.tasks.reading.passage_generator import passages; print([p['title'] for p in passages(5, 9, 'en')])"
    )
    displayed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert displayed.strip() == str([p["title"] for p in passages(5, 9, "en")])


def test_the_vocabulary_is_closed_and_questions_ask_for_all_relations() -> None:
    small = Counter(
        word
        for p in passages(3000, 10, "en")
        for word in re.findall(r"\b[a-z]+\b", p["context"] + p["qas"][0]["question"])
    )
    assert len(small) < 700


def test_every_relation_is_worded_in_both_languages() -> None:
    keys = {f"{kind}.{relation}" for kind, relations in templates_en.RELATIONS.items() for relation in relations}
    assert len(keys) >= 8
    assert set(templates_en.ENGLISH) == set(CHINESE) == keys
    for predicates, complete, questions, reverse in [*templates_en.ENGLISH.values(), *CHINESE.values()]:
        assert len((predicates + "|" + complete).split("|")) >= 3
        assert all(text.count("{v}") == 1 and "{s}" not in text for text in predicates.split("|"))
        assert all(text.count("{v}") == 1 and text.count("{s}") == 1 for text in complete.split("|"))
        assert len(questions.split("|")) >= 3
        assert all(text.count("{s}") == 1 and "{v}" not in text for text in questions.split("|"))
        assert all(text.count("{v}") == 1 and "{s}" not in text for text in reverse.split("|"))


@pytest.mark.parametrize("language", ["zh", "en", "both"])
def test_sentences_are_whole(language: Language) -> None:
    for sentence in sentences(300, 12, language):
        assert sentence[-1] in ".。"
        assert "{" not in sentence
