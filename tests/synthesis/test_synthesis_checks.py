"""Replies are checked against each rule, and a pair is not written twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lotune.synthesis.checks import Pair, ReplyError, check_reply, grounded_share, near_key, read_pairs
from lotune.synthesis.checks import article_terms as terms
from lotune.synthesis.settings import PairRules

ARTICLE = "李白是唐代诗人。李白生于701年，卒于762年。李白的朋友是杜甫。李白出生于碎叶城。"
GOOD = [
    {"question": "李白是哪代诗人？", "answer": "唐代"},
    {"question": "李白生于哪年？", "answer": "701年"},
    {"question": "李白的朋友是谁？", "answer": "杜甫"},
]


def fresh(_: Pair) -> bool:
    return False


def reply(*changes: tuple[int, str, Any]) -> str:
    pairs: list[dict[str, Any]] = [dict(pair) for pair in GOOD]
    for number, key, value in changes:
        pairs[number][key] = value
    return json.dumps({"pairs": pairs}, ensure_ascii=False)


@pytest.mark.parametrize(
    "text",
    [
        reply(),
        json.dumps(GOOD),
        "\n".join(json.dumps(pair) for pair in GOOD),
        ",\n".join(json.dumps(pair) for pair in GOOD),
        f"```json\n{reply()}\n```",
        f"<think>which ones?</think>\n{reply()}",
    ],
)
def test_a_reply_in_any_usual_form_is_read(text: str) -> None:
    pairs = check_reply(text, ARTICLE, PairRules(), fresh)
    assert [pair.answer for pair in pairs] == ["唐代", "701年", "杜甫"]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("no JSON", "form", "not JSON"),
        (reply()[:-3], "form", "not JSON"),
        ("[" * 100_000, "form", "not JSON"),
        ('{"pairs": 3}', "form", "no list"),
        (reply((1, "answer", 701)), "form", "pair 2"),
        (reply((1, "more", "x")), "form", "pair 2"),
        (json.dumps(GOOD[:2]), "count", "2 pairs, not 3 to 6"),
        (json.dumps(GOOD * 3), "count", "9 pairs"),
        (reply((0, "question", "李白是中国历史上哪一个朝代的一位诗人？")), "length", "question of pair 1 has 19"),
        (reply((2, "answer", "")), "length", "answer of pair 3 has 0"),
        (reply((0, "answer", "唐\u0000代")), "characters", "answer of pair 1"),
        (reply((0, "question", "他是哪代诗人？")), "pronoun", "'他'"),
        (reply((0, "question", "该诗人是谁？")), "pronoun", "'该'"),
        (reply((0, "question", "文中的诗人是谁？")), "pronoun", "'文中'"),
        (reply((0, "question", "Where was he?")), "pronoun", "'he'"),
        (reply((1, "answer", "他写过一千多首诗歌")), "grounding", "answer of pair 2"),
        (reply((1, "question", "李白是哪代 诗人?")), "repeated", "pair 2"),
    ],
)
def test_a_reply_that_breaks_a_rule_says_which(text: str, kind: str, said: str) -> None:
    with pytest.raises(ReplyError, match=said) as error:
        check_reply(text, ARTICLE, PairRules(), fresh)
    assert error.value.kind == kind


@pytest.mark.parametrize("question", ["李白和其他诗人？", "李白是哪国人？"])
def test_words_that_look_like_pronouns_are_none(question: str) -> None:
    assert check_reply(reply((0, "question", question)), ARTICLE, PairRules(), fresh)


def test_a_question_of_another_article_is_refused() -> None:
    with pytest.raises(ReplyError) as error:
        check_reply(reply(), ARTICLE, PairRules(), lambda pair: pair.answer == "杜甫")
    assert error.value.kind == "known"


def test_grounding_is_the_share_of_an_answer_that_the_article_has() -> None:
    assert grounded_share("唐代诗人", terms(ARTICLE)) == 1
    assert grounded_share("宋朝词人", terms(ARTICLE)) == 0
    assert grounded_share("born in 701", terms("He was born in 701.")) == 1
    assert grounded_share("…", terms(ARTICLE)) == 1


def test_pairs_are_near_if_only_the_order_differs() -> None:
    first, second = Pair("李白的朋友是谁？", "杜甫"), Pair("谁是李白朋友", "杜甫。")
    assert near_key(first) == near_key(second)
    assert near_key(first) != near_key(Pair("李白的朋友是谁？", "高适"))


def test_read_pairs_strips_blanks() -> None:
    assert read_pairs('[{"question": " a ", "answer": "b\\n"}]') == [Pair("a", "b")]
