"""The text of a growing answer in pieces: no piece ends within a character or within a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lotune.generate.sampling import cut_at_stop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT_CHARACTER = "\ufffd"
"""What a tokeniser returns for the bytes of an incomplete character."""


class StreamingDetokenizer:
    """Turns the tokens of one answer into pieces of text; joined, the pieces are the whole text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(filter(None, stop))
        # The text of the tokens before `_ids` is settled; so is that of the first `_num_settled` of these, which are
        # kept because the text of a token can depend on the tokens before it.
        self._ids: list[int] = []
        self._num_settled = 0
        self._settled = self._shown = ""

    def add_token(self, token: int) -> str:
        """Return the text that can be shown after one more token; empty if it is not certain yet."""
        self._ids.append(token)
        before, decoded = self._decode(self._ids[: self._num_settled]), self._decode(self._ids)
        added = decoded[len(before) :]
        text = (self._settled + added).rstrip(REPLACEMENT_CHARACTER)
        if added and not decoded.endswith(REPLACEMENT_CHARACTER):
            self._settled += added
            self._ids = self._ids[self._num_settled :]
            self._num_settled = len(self._ids)
        text, stopped = cut_at_stop(text, self._stop)
        return self._show(text if stopped else text[: len(text) - self._partial_stop_length(text)])

    def finalize(self, text: str) -> str:
        """Return the rest of the finished answer `text`."""
        return self._show(text)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _show(self, text: str) -> str:
        """Return what a text adds to the pieces shown so far."""
        if not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        return piece

    def _partial_stop_length(self, text: str) -> int:
        """Return the number of characters at the end of a text that may begin a stop text."""
        for length in range(max(map(len, self._stop), default=0), 0, -1):
            if any(stop.startswith(text[len(text) - length :]) for stop in self._stop if len(text) >= length):
                return length
        return 0
