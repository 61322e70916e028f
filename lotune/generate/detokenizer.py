"""The text of a growing answer, piece by piece: no character is shown half, and no stop text that is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lotune.generate.sampling import cut_at_stop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT_CHARACTER = "\ufffd"
"""What a tokeniser gives for the bytes of a character that is not whole yet."""


class StreamingDetokenizer:
    """The pieces of one answer, from its tokens; joined, they are its whole text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(filter(None, stop))
        self._ids: list[int] = []
        self._shown = ""

    def add_token(self, token: int) -> str:
        """What can be shown after one more token; empty where it is not certain yet."""
        self._ids.append(token)
        decoded = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(decoded, str)
        text, stopped = cut_at_stop(decoded.rstrip(REPLACEMENT_CHARACTER), self._stop)
        return self._up_to(text if stopped else text[: len(text) - self._held(text)])

    def finalize(self, text: str) -> str:
        """The rest, once the answer has ended with this text."""
        return self._up_to(text)

    def _up_to(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        return piece

    def _held(self, text: str) -> int:
        """How much of the end of a text may be the beginning of a stop text."""
        for length in range(max(map(len, self._stop), default=0), 0, -1):
            if any(stop.startswith(text[len(text) - length :]) for stop in self._stop if len(text) >= length):
                return length
        return 0
