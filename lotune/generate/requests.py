"""What the engine is asked and what it answers, and how an answer grows and ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import torch

from lotune.errors import SettingsError
from lotune.generate.drafts import MOST_DRAFTED, PAUSE, USUAL_DRAFT, Trail, draft
from lotune.generate.sampling import GREEDY, Sampling, cut_at_stop, tokens_to_watch
from lotune.model.logits import NotFiniteLogitsError, largest_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

StoppedBy = Literal["eos", "stop", "length", "cancelled", "deadline"]
OnToken = Callable[[int, int], bool | None]
"""Is told each token of an answer, as (number of the answer, token id), and ends that answer by returning True."""

BASE = "__base__"
"""The name of no adapter, as PEFT has it."""


@dataclass(frozen=True)
class Request:
    """One prompt. The answer has at most `max_new_tokens` tokens, and no end-of-text before `min_new_tokens`.

    It ends before any of the `stop` texts, and with any of the `stop_ids`, as with an end-of-text; so it does with a
    stop text that is a special token of the tokeniser. `logprobs` asks for the log-probability of each token of the
    answer, in nats, as the model has it before sampling changes it. It ends as it is `seconds` after it was asked for.
    `adapter` is one of those that the model has, or BASE for none of them; without it the model answers as it stands.
    `where` names the row in messages. `samples` answers are drawn, the first with the seed of `sampling`, the others
    with seeds that follow from it.

    Raises: SettingsError for samples below 1, or several that could not differ.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    where: str = ""
    stop_ids: tuple[int, ...] = ()
    sampling: Sampling = GREEDY
    logprobs: bool = False
    seconds: float | None = None
    adapter: str | None = None
    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise SettingsError("samples", f"is {self.samples}", "1 or more", "1 asks for one answer")
        if self.samples > 1 and self.sampling.temperature == 0:
            found = f"is {self.samples} at temperature 0, where all are the same"
            raise SettingsError("samples", found, "1, or a temperature above 0", "raise the temperature")

    def each(self) -> Iterator[Request]:
        """The samples as requests of their own; those of fewer are the first of more."""
        yield replace(self, samples=1)
        draw = random.Random(f"samples of {self.sampling.seed}")
        for _ in range(1, self.samples):
            yield replace(self, samples=1, sampling=replace(self.sampling, seed=draw.getrandbits(63)))


Requests = Sequence[Request] | SimpleQueue[Request | None]
Check = Callable[[Sequence[Request], int], None]


@dataclass(frozen=True)
class Completion:
    """One answer: its text without special tokens, its token ids without the end-of-text, and what ended it.

    The text is that of all ids decoded at once, cut before a stop text. `logprobs`: of each id, where asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    stopped_by: StoppedBy
    logprobs: tuple[float, ...] = ()


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: those of the model's generation config and the tokeniser's end-of-text."""
    found: list[Any] = [tokenizer.eos_token_id]
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found += configured if isinstance(configured, list | tuple) else [configured]
    return tuple(sorted({int(id) for id in found if id is not None}))


def each_answer(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request]) -> Iterator[Request]:
    """A request for each answer, in order, samples of one next to one another; special tokens to stop at as ids."""
    decoder = getattr(tokenizer, "added_tokens_decoder", {})
    special = {str(token): number for number, token in decoder.items() if token.special}
    for request in requests:
        ids = tuple(special[text] for text in request.stop if text in special)
        yield from (replace(request, stop_ids=(*request.stop_ids, *ids)) if ids else request).each()


@dataclass(slots=True)
class Row:
    """A request under way; it `began` when it was asked for. `daring` is the longest draft that may be tried next.

    Where it is 0, one is tried again when the answer has `tries_at` tokens.
    """

    index: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    generator: torch.Generator = field(default_factory=torch.Generator)
    began: float = field(default_factory=lambda: time.monotonic())
    trail: Trail = field(default_factory=Trail)
    daring: int = USUAL_DRAFT
    tries_at: int = 0

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.request.sampling.seed)

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens that are read before the first step: all of the prompt but its last."""
        return self.request.prompt_ids[:-1]

    @property
    def last(self) -> int:
        """The token to read next."""
        return self.ids[-1] if self.ids else self.request.prompt_ids[-1]

    @property
    def length(self) -> int:
        """How many tokens have been read: the place of `last`."""
        return len(self.request.prompt_ids) - 1 + len(self.ids)

    @property
    def need(self) -> int:
        """Most tokens that are ever read; the last one of an answer is not."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens - 1

    def draft(self, past: Trail, room: int) -> list[int]:
        """What may come next, from the row itself or `past` ones: at most `room` tokens, and never the last one."""
        if self.daring == 0 and len(self.ids) >= self.tries_at:
            self.daring = 1
        most = min(room, self.daring, self.request.max_new_tokens - len(self.ids) - 1)
        if most < 1:
            return []
        known = len(self.trail.ids) - len(self.request.prompt_ids)
        self.trail.extend(self.request.prompt_ids if known < 0 else ())
        self.trail.extend(self.ids[max(0, known) :])
        return draft(self.trail, past, most)

    def learn(self, drafted: int, right: int) -> None:
        """Dare more where a whole draft was right, and less where nothing of it was."""
        if drafted and right == drafted:
            self.daring = min(2 * self.daring, MOST_DRAFTED)
        elif drafted:
            self.daring = USUAL_DRAFT if right else drafted // 2
            self.tries_at = len(self.ids) + PAUSE


class Arrivals:
    """Rows as they are asked for: those of a list all at once, those of a queue as they come, until it gives None."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, requests: Requests, check: Check) -> None:
        """`check(requests, number of the first)` raises for what cannot be answered."""
        self._tokenizer, self._check, self._count = tokenizer, check, 0
        self._queue = None if isinstance(requests, Sequence) else requests
        self._rows = self._checked(requests) if isinstance(requests, Sequence) else []

    def take(self, idle: bool) -> list[Row]:
        """Rows that came since the last call; where nothing else is to do (`idle`) it waits for one, up to the end."""
        if self._queue is None:
            rows, self._rows = self._rows, []
            return rows
        come: list[Request] = []
        while self._queue is not None:
            try:
                request = self._queue.get(block=idle and not come)
            except Empty:
                break
            if request is None:
                self._queue = None
            else:
                come.append(request)
        return self._checked(come)

    def _checked(self, requests: Sequence[Request]) -> list[Row]:
        self._check(requests, self._count)
        rows = [Row(self._count + n, request) for n, request in enumerate(each_answer(self._tokenizer, requests))]
        self._count += len(rows)
        return rows


@dataclass(frozen=True)
class Ending:
    """Chooses tokens and knows when an answer has ended."""

    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    on_token: OnToken | None

    def late(self, row: Row) -> Completion | None:
        """The answer as it is where its time is up."""
        seconds = row.request.seconds
        if seconds is None or time.monotonic() - row.began < seconds:
            return None
        return self._completion(row, "deadline")

    def choose(self, logits: torch.Tensor, rows: Sequence[Row], largest: Sequence[float] | None = None) -> list[int]:
        """The next token of each row, from logits (n, V); no end-of-text where the row may not end yet.

        `largest` are the rows' largest logits, where they are known.
        Raises: NotFiniteLogitsError for the first row whose logits are not finite.
        """
        for row, value in zip(rows, largest_logits(logits) if largest is None else largest, strict=True):
            if not isfinite(value):
                where, read = row.request.where or f"request {row.index}", (*row.request.prompt_ids, *row.ids)
                raise NotFiniteLogitsError(where, read, value, row.request.adapter)
        plain, early = logits, [place for place, row in enumerate(rows) if len(row.ids) < row.request.min_new_tokens]
        if early:
            logits = logits.clone()
            for place in early:
                ends = (*self.end_ids, *rows[place].request.stop_ids)
                logits[place, [id for id in ends if id < logits.shape[-1]]] = float("-inf")
        chosen: list[int] = logits.argmax(-1).tolist()
        for place, row in enumerate(rows):
            request = row.request
            if not request.sampling.plain:
                seen = (*request.prompt_ids, *row.ids)
                chosen[place] = request.sampling.choose(logits[place], seen, row.generator)
            if request.logprobs:
                row.logprobs.append(float(plain[place].float().log_softmax(-1)[chosen[place]]))
        return chosen

    def append(self, row: Row, token: int) -> Completion | None:
        """Add a token to an answer; the answer where it has ended."""
        if token in self.end_ids or token in row.request.stop_ids:
            return self._completion(row, "eos")
        row.ids.append(token)
        if self.on_token is not None and self.on_token(row.index, token):
            return self._completion(row, "cancelled")
        stop = row.request.stop
        if stop and cut_at_stop(self._text(row.ids[-tokens_to_watch(stop) :]), stop)[1]:
            completion = self._completion(row, "length")
            if completion.stopped_by == "stop":
                return completion
        return self._completion(row, "length") if len(row.ids) == row.request.max_new_tokens else self.late(row)

    def _completion(self, row: Row, stopped_by: StoppedBy) -> Completion:
        text, stopped = cut_at_stop(self._text(row.ids), row.request.stop)
        return Completion(text, tuple(row.ids), "stop" if stopped else stopped_by, tuple(row.logprobs[: len(row.ids)]))

    def _text(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text
