"""The events of one request, read from its row as tokens come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lotune.generate.detokenizer import StreamingDetokenizer
from lotune.generate.requests import Completion, ErrorEvent, Event, FinishEvent, TokenEvent
from lotune.generate.running import RunningRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EventReader:
    """Reads the events of a row; `traced` returns the error to report for one that ended the row.

    `ended` tells whether the last event was read.
    """

    def __init__(
        self, row: RunningRequest, tokenizer: PreTrainedTokenizerBase, traced: Callable[[Exception], Exception]
    ) -> None:
        self.row, self.ended = row, False
        self._pieces, self._traced, self._read = StreamingDetokenizer(tokenizer, row.request.stop), traced, 0

    @property
    def has_news(self) -> bool:
        """Whether there is an event to read."""
        return self.row.has_news(self._read)

    def read(self) -> list[Event]:
        """Return the events since the last call."""
        row, events = self.row, list[Event]()
        # Read before the tokens: once it is set, no further token can follow those that are read below.
        outcome = row.outcome
        for token in row.ids[self._read :]:
            logprob = row.logprobs[self._read] if row.request.logprobs else None
            top_logprobs = row.top_logprobs[self._read] if row.request.top_logprobs else ()
            self._read += 1
            events.append(TokenEvent(token, self._pieces.add_token(token), logprob, top_logprobs))
        if outcome is not None:
            self.ended = True
            if isinstance(outcome, Completion):
                events.append(FinishEvent(outcome, self._pieces.finalize(outcome.text)))
            else:
                events.append(ErrorEvent(self._traced(outcome)))
        return events
