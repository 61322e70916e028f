"""Display of untrusted text: hidden characters are made visible, and none of them controls the terminal."""

from __future__ import annotations

import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TextIO

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories without a glyph, or that reorder text, control a terminal or cannot be encoded."""
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters without a glyph, such as the Hangul fillers."""
_DRAWN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Format characters that have a glyph: Arabic, Syriac and Kaithi number signs."""


def show_control_characters(text: str) -> str:
    r"""Return the text with each hidden character replaced by a visible symbol; line feeds and tabs stay.

    C0 controls and DEL become their Unicode pictures. C1 controls, format characters (zero-width, bidirectional,
    soft hyphen, byte-order mark), line and paragraph separators and surrogates become ‹U+XXXX›. The result is safe
    on a terminal, and `show_control_characters(show_control_characters(text)) ==
    show_control_characters(text)`.

    >>> show_control_characters("a\x1b[31mb\r\n")
    'a␛[31mb␍\n'
    >>> show_control_characters("pay\u200bload \u202etxt.exe \x9b2J")
    'pay‹U+200B›load ‹U+202E›txt.exe ‹U+009B›2J'
    """
    # Most texts take this way out; looking at each character is much slower.
    if text.isprintable() and _BLANK_LETTERS.isdisjoint(text):
        return text
    return "".join(visible_symbol(character) if is_hidden(character) else character for character in text)


def print_visible(text: object, end: str = "\n", file: TextIO | None = None) -> None:
    """Print untrusted text with its hidden characters made visible, on stdout by default."""
    print(show_control_characters(str(text)), end=end, file=file, flush=True)


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback with hidden characters made visible; a `sys.excepthook`."""
    print_visible("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)


def escaped(json: str) -> str:
    r"""Return JSON with each hidden character as an escape sequence; its value is unchanged.

    >>> escaped('{"a": "pay\u200bload \x9b2J"}')
    '{"a": "pay\\u200bload \\u009b2J"}'
    """
    if all(map(str.isprintable, json.split("\n"))):
        return json
    return "".join(_escape(character) if is_hidden(character) else character for character in json)


def _escape(character: str) -> str:
    # JSON has escapes of UTF-16 units, so a character beyond U+FFFF becomes two.
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def is_hidden(character: str) -> bool:
    r"""Return whether a character is displayed as a symbol instead of itself.

    >>> [is_hidden(character) for character in ("a", "\n", "\u3000", "\x1b", "\xad")]
    [False, False, False, True, True]
    """
    if character in "\n\t" or character in _DRAWN:
        return False
    return unicodedata.category(character) in _HIDDEN or character in _BLANK_LETTERS


def visible_symbol(character: str) -> str:
    r"""Return the symbol of a hidden character.

    >>> visible_symbol("\x7f"), visible_symbol("\ufeff"), visible_symbol("\U000e0041")
    ('␡', '‹U+FEFF›', '‹U+E0041›')
    """
    code = ord(character)
    # Unicode has pictures of the C0 controls, at U+2400 in the same order.
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"‹U+{code:04X}›"
