"""The engine: requests are submitted and cancelled at any time, from any thread, and answered side by side.

Rows stand in the slots of one cache, each at its own length, and no row sees another or any padding. So in float32 an
answer does not depend on what it is generated with (matrix products of another height may differ in their last bit,
which shows only where the two best logits are that close).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from lotune.errors import LotuneError, RunError, SettingsError
from lotune.generate.backends import Backend, backend_for, base_model, check_requests
from lotune.generate.detokenizer import StreamingDetokenizer
from lotune.generate.requests import (
    Completion,
    ErrorEvent,
    Event,
    FinishEvent,
    OnToken,
    Request,
    TokenEvent,
    eos_token_ids,
    expand_requests,
)
from lotune.generate.running import RunningRequest, TokenSelector
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.parts import token_reader, virtual_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_BATCH_TOKENS = 65_536
"""Tokens that are held at once where nothing else is said."""
WAIT_SECONDS = 0.05
"""The longest that a reader waits for another thread's step before it looks for tokens again."""


class Engine:
    """A model that answers requests: `submit` and `cancel` at any time, from any thread, and read `events`.

    The engine has no thread of its own. Whoever reads events or answers takes its steps, one thread at a time, while
    the others wait; so nothing runs where nobody reads. What a prompt has in common with one before is not read twice:
    keys and values are kept, so the weights must not change while an engine is in use, or `reset` is called after.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> None:
        """Probe what `model`, plain, adapted or held by vLLM, bears; at most `batch_tokens` tokens are held at once.

        Raises: ModelError for a model that cannot answer.
        """
        self.model, self.tokenizer, self.batch_tokens = token_reader(model), tokenizer, batch_tokens
        self._base, self._prefix_ids = base_model(model), virtual_ids(model)
        check_requests(self.model, self._base, [])
        self._backend: Backend = backend_for(model)
        self._ids = count()
        self._rows: dict[int, RunningRequest] = {}
        self._arrivals: list[RunningRequest] = []
        self._changed = threading.Condition()
        self._stepping = threading.Lock()
        self._session = ExitStack()
        self._selector: TokenSelector | None = None
        self._any_cancelled = False

    def check(self, requests: Sequence[Request], first: int = 0) -> None:
        """Raise for a request that cannot be answered; `first` is the number of the first one, for messages.

        Raises: as `check_requests`; ModelError for an adapter that cannot be chosen a request.
        """
        for request in requests:
            self._backend.check(request)
        check_requests(self.model, self._base, requests, first)

    def submit(self, request: Request) -> int:
        """Submit a request for one answer and return its id; what is wrong with it is the only event of the id."""
        row = RunningRequest(next(self._ids), request)
        try:
            self.check([request], row.index)
            if request.samples > 1:
                raise SettingsError("samples", f"is {request.samples}", "1", "submit each of expand_samples()")
            [row.request] = self._expand([request])
        except LotuneError as error:
            row.outcome = error
        self._enqueue([row])
        return row.index

    def cancel(self, id: int) -> bool:
        """Cancel a request, waiting or running, and return whether it was: it ends with the answer as it is."""
        return self._cancel([id])

    def events(self, id: int) -> Iterator[Event]:
        """Yield the events of a request, once; whoever leaves before the last one cancels the request.

        Raises: KeyError for an id that is unknown or was read already.
        """
        return self._events(id, self._rows[id])

    def stream(
        self,
        requests: Sequence[Request],
        *,
        batch_tokens: int | None = None,
        on_token: Callable[[int, int], bool | None] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number of the answer, answer) as answers end; whoever leaves before the last one cancels the others.

        Answers are numbered through the requests in their order, samples side by side. `on_token(number, token id)`
        receives each token as it is chosen, and ends the answer by returning True. `batch_tokens` replaces that of the
        engine from here on.

        Raises: as `check` does, before anything runs; NotFiniteLogitsError where logits are not finite; what
        `on_token` raises.
        """
        self.check(requests)
        self.batch_tokens = batch_tokens or self.batch_tokens
        ended, rows = deque[RunningRequest](), list[RunningRequest]()
        for number, request in enumerate(self._expand(requests)):
            receive: OnToken | None = None if on_token is None else partial(on_token, number)
            rows.append(RunningRequest(next(self._ids), request, on_token=receive, on_end=ended.append))
        numbers = {row.index: number for number, row in enumerate(rows)}
        self._enqueue(rows)
        try:
            for _ in rows:
                while not ended:
                    self._advance(lambda: bool(ended))
                row = ended.popleft()
                if not isinstance(row.outcome, Completion):
                    raise self._error(row)
                yield numbers[row.index], row.outcome
        finally:
            self._forget(list(numbers))

    def reset(self) -> None:
        """Forget what was read, and give its memory back; the next answers are those of a new engine.

        Raises: RuntimeError while requests wait or run.
        """
        with self._stepping:
            if not self._is_idle():
                raise RuntimeError("an engine is reset between requests only")
            self._backend.reset()

    def _expand(self, requests: Sequence[Request]) -> Iterator[Request]:
        """Yield one request an answer; an adapter's virtual tokens stand before its prompt."""
        for request in expand_requests(self.tokenizer, requests):
            yield replace(request, prompt_ids=(*self._prefix_ids, *request.prompt_ids)) if self._prefix_ids else request

    def _enqueue(self, rows: list[RunningRequest]) -> None:
        with self._changed:
            self._rows |= {row.index: row for row in rows}
            self._arrivals += [row for row in rows if row.outcome is None]
            self._changed.notify_all()

    def _events(self, id: int, row: RunningRequest) -> Iterator[Event]:
        pieces, sent = StreamingDetokenizer(self.tokenizer, row.request.stop), 0
        try:
            while True:
                outcome = row.outcome  # before the tokens: those of an ended row are complete
                for token in row.ids[sent:]:
                    logprob = row.logprobs[sent] if row.request.logprobs else None
                    sent += 1
                    yield TokenEvent(token, pieces.add_token(token), logprob)
                if isinstance(outcome, Completion):
                    yield FinishEvent(outcome, pieces.finalize(outcome.text))
                    return
                if outcome is not None:
                    yield ErrorEvent(self._error(row))
                    return
                self._advance(partial(row.has_news, sent), at_once=True)
        finally:
            self._forget([id])

    def _forget(self, ids: Sequence[int]) -> None:
        """Cancel what has not ended, and remember none of it."""
        self._cancel(ids)
        with self._changed:
            for id in ids:
                self._rows.pop(id, None)

    def _cancel(self, ids: Sequence[int]) -> bool:
        """Mark requests that have not ended; they end at once where no step is under way, else before the next one."""
        with self._changed:
            rows = [row for id in ids if (row := self._rows.get(id)) is not None and row.outcome is None]
            for row in rows:
                row.cancelled = self._any_cancelled = True
        if rows and self._stepping.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._rest()
        return bool(rows)

    def _advance(self, ready: Callable[[], bool], at_once: bool = False) -> None:
        """Take a step, or wait for the end of the one that another thread takes, unless there is something to read.

        `at_once`: whoever reads tokens as they come does not take a step of whole answers, a thread of its own does.
        """
        if not self._stepping.acquire(blocking=False):
            with self._changed:
                self._changed.wait_for(lambda: ready() or not self._stepping.locked(), WAIT_SECONDS)
        elif at_once and self._backend.whole_answers and not ready():
            threading.Thread(target=self._step_and_rest, args=(ready,), daemon=True).start()
        else:
            self._step_and_rest(ready)

    def _step_and_rest(self, ready: Callable[[], bool]) -> None:
        try:
            if not ready():
                self._step()
        finally:
            self._rest()

    @torch.inference_mode()
    def _step(self) -> None:
        """Take a step; a pass that fails ends the rows that were in it."""
        selector = self._take_in()
        try:
            self._backend.step(selector, self.batch_tokens)
        except BaseException as error:  # nobody knows what the slots hold
            self._backend.reset()
            interrupted = RunError("the engine", "was interrupted", remedy="submit the request again")
            self._end_lost(error if isinstance(error, Exception) else interrupted)
            if not isinstance(error, Exception):
                raise

    @torch.inference_mode()
    def _take_in(self) -> TokenSelector:
        """Hand new rows to the backend, and end the cancelled ones. The caller takes the steps."""
        if self._selector is None:
            self._session.enter_context(self._backend.session())
            self._selector = TokenSelector(self.tokenizer, eos_token_ids(self._base, self.tokenizer))
        with self._changed:
            arrivals, self._arrivals = self._arrivals, []
            any_cancelled, self._any_cancelled = self._any_cancelled, False
        if arrivals:
            self._backend.add(arrivals)
        if any_cancelled:
            for row in (*self._backend.waiting, *self._backend.running):
                if row.cancelled:
                    self._selector.finish(row, "cancelled")
            self._backend.remove_ended()
        return self._selector

    def _end_lost(self, error: Exception) -> None:
        """End the rows that neither wait nor run any more, and have no outcome."""
        with self._changed:
            safe = {row.index for row in (*self._backend.waiting, *self._arrivals)}
            lost = [row for row in self._rows.values() if row.outcome is None and row.index not in safe]
        for row in lost:
            row.finish(error)

    def _rest(self) -> None:
        """Let another thread take the next step; without requests the model is as it was before."""
        if self._selector is not None and self._is_idle():
            self._selector = None
            self._session.close()
        self._stepping.release()
        with self._changed:
            self._changed.notify_all()

    def _is_idle(self) -> bool:
        return not (self._backend.waiting or self._backend.running or self._arrivals)

    def _error(self, row: RunningRequest) -> Exception:
        """Return the error that ended a row; logits that are not finite are traced to their layer."""
        assert isinstance(row.outcome, Exception)
        if not isinstance(row.outcome, NotFiniteLogitsError):
            return row.outcome
        with self._stepping, torch.inference_mode():
            return row.outcome.traced(self.model)


def generate_completions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    on_done: Callable[[int, Completion], None] | None = None,
    on_token: Callable[[int, int], bool | None] | None = None,
) -> list[Completion]:
    """Return the answers in the order of the requests, samples side by side.

    `on_done(number of the answer, answer)` is called as each ends. At most `batch_tokens` tokens, prompts and longest
    possible answers together, are held at once (one row at least).
    Raises: as `Engine.stream` does.
    """
    answers: dict[int, Completion] = {}
    engine = Engine(model, tokenizer, batch_tokens=batch_tokens)
    for index, completion in engine.stream(requests, on_token=on_token):
        answers[index] = completion
        if on_done is not None:
            on_done(index, completion)
    return [answers[index] for index in range(len(answers))]
