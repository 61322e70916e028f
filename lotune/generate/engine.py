"""The generation engine: any thread submits and cancels requests at any time, and they are answered side by side.

Each row has its own length in a slot of a shared cache and sees neither another row nor padding. In float32, an answer
therefore does not depend on the requests beside it, except that matrix products of another height can differ in their
last bit, which shows if the two best logits are that close.
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
from lotune.generate.continuous_batching import ContinuousBatcher
from lotune.generate.event_reader import EventReader
from lotune.generate.prefix_cache import PrefixCache
from lotune.generate.requests import Completion, Event, OnToken, Request, eos_token_ids, expand_requests
from lotune.generate.running import RunningRequest, TokenSelector
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.parts import token_reader, virtual_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_BATCH_TOKENS = 65_536
"""Default number of tokens to hold at once."""
WAIT_SECONDS = 0.05
"""Maximum time for which a reader waits for another thread's step before it looks for tokens again."""


class Engine:
    """A model that answers requests: `submit` and `cancel` them at any time, from any thread, and read their `events`.

    The engine has no thread of its own. The threads that read events or answers take its steps, one at a time, so
    nothing runs while nobody reads. Keys and values of earlier prompts are kept, so that a common prefix is computed
    once; call `reset` after the weights have changed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = MAX_BATCH_TOKENS,
        prefix_cache_bytes: int = 0,
    ) -> None:
        """Choose a backend by probing `model` (plain, adapted or loaded by vLLM).

        At most `batch_tokens` tokens are held at once, but always one row. `prefix_cache_bytes` bounds the memory for
        keys and values of ended rows, from which a later prompt copies its beginning.

        Raises: ModelError for a model that cannot generate.
        """
        self.model, self.tokenizer, self.batch_tokens = token_reader(model), tokenizer, batch_tokens
        self._base, self._prefix_ids = base_model(model), virtual_ids(model)
        check_requests(self.model, self._base, [])
        self._backend: Backend = backend_for(model)
        self._batcher = self._backend if isinstance(self._backend, ContinuousBatcher) else None
        if self._batcher is not None:
            self._batcher.prefix_cache = PrefixCache(prefix_cache_bytes)
        self._ids = count()
        self._rows: dict[int, RunningRequest] = {}
        self._arrivals: list[RunningRequest] = []
        self._changed = threading.Condition()
        self._stepping = threading.Lock()
        self._session = ExitStack()
        self._selector: TokenSelector | None = None
        self._any_cancelled = False

    def check(self, requests: Sequence[Request], first: int = 0) -> None:
        """Check that requests can be answered; `first` is the number of the first one in messages.

        Raises: DataError, SettingsError or ModelError, as `check_requests` does.
        """
        for request in requests:
            self._backend.check(request)
        check_requests(self.model, self._base, requests, first)

    def submit(self, request: Request, on_token: OnToken | None = None) -> int:
        """Submit a request for one answer and return its id. If it is not valid, its only event is an ErrorEvent.

        `on_token(token id)` receives each token as it is chosen, and ends the answer by returning True.
        """
        row = RunningRequest(next(self._ids), request, on_token=on_token)
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
        """Cancel a waiting or running request, which ends with the answer so far; return whether it had not ended."""
        return self._cancel([id])

    def events(self, id: int) -> Iterator[Event]:
        """Yield the events of a request; closing the iterator before the last event cancels the request.

        Raises: KeyError if the id is unknown or its events were read before.
        """
        return self._events(id, self.reader(id))

    def reader(self, id: int) -> EventReader:
        """Return a reader of the events of a request, which takes no steps; call `forget` when it has ended.

        Raises: KeyError if the id is unknown.
        """
        return EventReader(self._rows[id], self.tokenizer, self._traced)

    def step(self) -> None:
        """Take one step if a request waits or runs; wait for the end of another thread's step before."""
        self._stepping.acquire()
        self._step_unless_ready(lambda: self.is_idle)

    def forget(self, id: int) -> None:
        """Drop a request, and cancel it if it has not ended."""
        self._forget([id])

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return not (self._backend.waiting or self._backend.running or self._arrivals)

    @property
    def whole_answers(self) -> bool:
        """Whether a step produces complete answers."""
        return self._backend.whole_answers

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of all prompts so far, 0 if the backend does not count them."""
        return self._batcher.prompt_tokens if self._batcher else 0

    @property
    def shared_tokens(self) -> int:
        """The number of tokens of prompts that were copied from another prompt instead of computed."""
        return self._batcher.shared_tokens if self._batcher else 0

    @property
    def num_tokens(self) -> int:
        """The number of tokens of running requests, prompts included."""
        return sum(row.length + 1 for row in self._backend.running)

    @property
    def num_waiting(self) -> int:
        """The number of requests without a slot."""
        return len(self._backend.waiting) + len(self._arrivals)

    @property
    def num_running(self) -> int:
        """The number of requests that the next step continues."""
        return len(self._backend.running)

    def stream(
        self,
        requests: Sequence[Request],
        *,
        batch_tokens: int | None = None,
        on_token: Callable[[int, int], bool | None] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number, completion) as answers end; closing the iterator early cancels the other requests.

        Answers are numbered in the order of the requests, with the samples of a request in sequence. `on_token(number,
        token id)` receives each token as it is chosen, and ends the answer by returning True. `batch_tokens` replaces
        the engine's value from now on.

        Raises: DataError, SettingsError or ModelError before the first step, as `check_requests` does;
        NotFiniteLogitsError if logits are not finite; any error of `on_token`.
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
                    assert isinstance(row.outcome, Exception)
                    raise self._traced(row.outcome)
                yield numbers[row.index], row.outcome
        finally:
            self._forget(list(numbers))

    def reset(self) -> None:
        """Forget all prompts and free their memory; the next answers are those of a new engine.

        Raises: RuntimeError while requests wait or run.
        """
        with self._stepping:
            if not self.is_idle:
                raise RuntimeError("an engine is reset between requests only")
            self._backend.reset()

    def _expand(self, requests: Sequence[Request]) -> Iterator[Request]:
        """Yield one request per answer, with an adapter's virtual tokens before the prompt."""
        for request in expand_requests(self.tokenizer, requests):
            yield replace(request, prompt_ids=(*self._prefix_ids, *request.prompt_ids)) if self._prefix_ids else request

    def _enqueue(self, rows: list[RunningRequest]) -> None:
        with self._changed:
            self._rows |= {row.index: row for row in rows}
            self._arrivals += [row for row in rows if row.outcome is None]
            self._changed.notify_all()

    def _events(self, id: int, reader: EventReader) -> Iterator[Event]:
        try:
            while True:
                yield from reader.read()
                if reader.ended:
                    return
                self._advance(lambda: reader.has_news, at_once=True)
        finally:
            self._forget([id])

    def _forget(self, ids: Sequence[int]) -> None:
        """Cancel the requests that have not ended, and drop all of them."""
        self._cancel(ids)
        with self._changed:
            for id in ids:
                self._rows.pop(id, None)

    def _cancel(self, ids: Sequence[int]) -> bool:
        """Mark requests that have not ended; they end now if no step is under way, else before the next step."""
        with self._changed:
            rows = [row for id in ids if (row := self._rows.get(id)) is not None and row.outcome is None]
            for row in rows:
                row.cancelled = self._any_cancelled = True
        if rows and self._stepping.acquire(blocking=False):
            try:
                self._process_changes()
            finally:
                self._end_step()
        return bool(rows)

    def _advance(self, ready: Callable[[], bool], at_once: bool = False) -> None:
        """Unless `ready()`, take a step, or wait for the end of another thread's step.

        `at_once`: the caller reads tokens as they come, so a step that ends with whole answers runs in a new thread.
        """
        if not self._stepping.acquire(blocking=False):
            with self._changed:
                # The timeout covers tokens that become readable during a step, which notifies only at its end.
                self._changed.wait_for(lambda: ready() or not self._stepping.locked(), WAIT_SECONDS)
        elif at_once and self._backend.whole_answers and not ready():
            # The new thread inherits the lock and releases it; a plain Lock, unlike an RLock, allows that.
            threading.Thread(target=self._step_unless_ready, args=(ready,), daemon=True).start()
        else:
            self._step_unless_ready(ready)

    def _step_unless_ready(self, ready: Callable[[], bool]) -> None:
        try:
            if not ready():
                self._step()
        finally:
            self._end_step()

    @torch.inference_mode()
    def _step(self) -> None:
        """Take a step. If it fails, end the rows that took part in it."""
        selector = self._process_changes()
        try:
            self._backend.step(selector, self.batch_tokens)
        except BaseException as error:
            # A step that stopped halfway may have written some layers' keys and not others', so no slot can be trusted.
            self._backend.reset()
            interrupted = RunError("the engine", "was interrupted", remedy="submit the request again")
            self._end_lost(error if isinstance(error, Exception) else interrupted)
            if not isinstance(error, Exception):
                raise

    @torch.inference_mode()
    def _process_changes(self) -> TokenSelector:
        """Pass new rows to the backend and end cancelled ones; the caller holds the lock on steps."""
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
        """End the rows without an outcome that no longer wait or run."""
        with self._changed:
            safe = {row.index for row in (*self._backend.waiting, *self._arrivals)}
            lost = [row for row in self._rows.values() if row.outcome is None and row.index not in safe]
        for row in lost:
            row.finish(error)

    def _end_step(self) -> None:
        """Let another thread take the next step; without requests, restore the mode and attention of the model."""
        if self._selector is not None and self.is_idle:
            self._selector = None
            self._session.close()
        self._stepping.release()
        with self._changed:
            self._changed.notify_all()

    def _traced(self, error: Exception) -> Exception:
        """Return the error that ended a row; logits that are not finite are traced to their layer."""
        if not isinstance(error, NotFiniteLogitsError):
            return error
        with self._stepping, torch.inference_mode():
            return error.traced(self.model)


def generate_completions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    on_done: Callable[[int, Completion], None] | None = None,
    on_token: Callable[[int, int], bool | None] | None = None,
) -> list[Completion]:
    """Return the answers of a new engine in the order of the requests, with the samples of a request in sequence.

    `on_done(number, completion)` is called as each answer ends. At most `batch_tokens` tokens, prompts and longest
    possible answers together, are held at once, but always one row.

    Raises: the errors of `Engine.stream`.
    """
    answers: dict[int, Completion] = {}
    engine = Engine(model, tokenizer, batch_tokens=batch_tokens)
    for index, completion in engine.stream(requests, on_token=on_token):
        answers[index] = completion
        if on_done is not None:
            on_done(index, completion)
    return [answers[index] for index in range(len(answers))]
