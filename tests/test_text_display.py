"""Text from outside is shown with nothing hidden in it."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.text_display import is_hidden, show_control_characters

EVERYTHING = st.text(st.characters(codec=None))


@given(EVERYTHING)
def test_no_hidden_character_is_left(text: str) -> None:
    displayed = show_control_characters(text)
    assert not any(map(is_hidden, displayed))
    assert show_control_characters(displayed) == displayed
    displayed.encode()


@given(st.text())
def test_visible_text_stays(text: str) -> None:
    plain = "".join(character for character in text if not is_hidden(character))
    assert show_control_characters(plain) == plain


@given(EVERYTHING, EVERYTHING)
def test_two_texts_are_shown_one_after_the_other(one: str, other: str) -> None:
    assert show_control_characters(one + other) == show_control_characters(one) + show_control_characters(other)


def test_every_character_is_either_drawn_or_marked() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") and character not in "\n\t":
            assert show_control_characters(character) != character, hex(code)


@pytest.mark.parametrize(
    "hidden", ["\x1b", "\x00", "\r", "\x7f", "\x85", "\x9b", "\xad", "\u200b", "\u200f", "\u202e", "\u2066", "\ufeff"]
)
def test_characters_that_steer_or_hide_are_marked(hidden: str) -> None:
    assert hidden not in show_control_characters(f"before{hidden}after")


def test_letters_of_many_scripts_stay() -> None:
    text = "计算 12 ＋ 3，答案：“是” naïve\u0301 ١٢ हिन्दी\u3000한국어 \u0600"
    assert show_control_characters(text) == text
