"""CMRC 2018's metric: worked values, and its laws beside the contest's, which is modelled on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.tasks.reading.cmrc import cmrc_scores, cmrc_tokens
from lotune.tasks.reading.contest_metric import normalise_contest_answer

TEXTS = st.text(st.sampled_from("ab the 24.,-·中国人（）'\"\n"), max_size=12) | st.text(max_size=12)


@pytest.mark.parametrize(("prediction", "golds", "f1", "em"), [
    ("光荣和使命", ["光荣和使命"], 100, 100),
    ("《光荣和使命》", ["光荣和使命"], 100, 100),  # the marks of a title are dropped
    ("光荣使命", ["光荣和使命"], 400 / 9, 0),  # a run of 2, not the 4 characters in common: 4 / (4 + 5)
    ("使命光荣", ["光荣"], 200 * 2 / 6, 0),
    ("1963年", ["1963年8月", "1963年"], 100, 100),  # the best gold answer, not the first
    ("1963年", ["8月", "1963年8月"], 200 * 2 / 6, 0),
    ("New York City", ["new york"], 80, 0),  # words, not letters and not blanks: 4 / 5
    ("U.S. Army", ["the U.S. Army"], 80, 0),
    ("Inc.公司", ["Inc公司"], 200 * 2 / 7, 0),  # "inc" and "." are two segments; the full stop is no dropped symbol
    ("Mercedes-Benz", ["mercedesbenz"], 100, 100),
    ("1,000米", ["1,000米"], 100, 100),
    ("", ["光荣"], 0, 0),
    ("，。", ["，"], 0, 100),  # nothing is left of either
])  # fmt: skip
def test_worked_values(prediction: str, golds: list[str], f1: float, em: float) -> None:
    assert cmrc_scores(prediction, golds) == pytest.approx((f1, em))


@pytest.mark.parametrize(("text", "expected"), [
    ("don't we'll o'clock", ["do", "n't", "we", "'ll", "o'clock"]),
    ("(24) a,b 1,000 cannot", ["(", "24", ")", "a", ",", "b", "1,000", "can", "not"]),
    ("u.s. army etc.", ["u.s.", "army", "etc", "."]),
    ("24–10%", ["24", "–", "10", "%"]),
    ("the 'pink' one...", ["the", "'", "pink", "'", "one", "..."]),
    ("于2001年force", ["于", "2001", "年", "force"]),
])  # fmt: skip
def test_words_are_those_of_the_treebank(text: str, expected: list[str]) -> None:
    assert cmrc_tokens(text) == expected


@given(TEXTS, TEXTS, TEXTS)
def test_laws(prediction: str, gold: str, other: str) -> None:
    f1, em = cmrc_scores(prediction, [gold])
    assert 0 <= f1 <= 100
    assert em in (0, 100)
    assert cmrc_scores(gold, [prediction]) == (f1, em)
    assert cmrc_scores(prediction, [gold, other])[0] >= f1  # more gold answers never lower a figure
    assert cmrc_scores(prediction, [other, prediction])[1] == 100
    if em and cmrc_tokens(normalise_contest_answer(prediction)):
        assert f1 == 100


@given(TEXTS)
def test_segments_lose_blanks_only(text: str) -> None:
    assert "".join(cmrc_tokens(text)) == "".join(text.split())
