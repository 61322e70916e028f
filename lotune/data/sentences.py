"""Where sentences of a text end."""

from __future__ import annotations

import re

SENTENCE_ENDS = ("。", "！", "？", ".", "!", "?")
"""Texts that end a sentence by default."""
CLOSERS = "”’」』）)]\"'"
"""Closing quotes and brackets, which belong to the sentence before them."""
_ENDS = re.compile(rf"(?:[。！？]|[.!?](?![0-9A-Za-z]))[{re.escape(CLOSERS)}]*")


def sentence_ends(text: str) -> list[int]:
    """Return the positions after each sentence of a text, with the closing quotes and brackets that follow.

    >>> sentence_ends("她说：“走。”3.14 is pi. Then"), sentence_ends("no end")
    ([7, 18], [])
    """
    return [match.end() for match in _ENDS.finditer(text)]
