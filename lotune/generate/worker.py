"""One thread that owns all models: it takes the steps of their engines and delivers the events of every request."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lotune.errors import LotuneError, RunError
from lotune.generate.answering_model import AnsweringModel
from lotune.generate.event_reader import EventReader
from lotune.generate.loglikelihood import Continuation, ScoredToken
from lotune.generate.requests import ErrorEvent, Event, Request

FLUSH_SECONDS = 0.02
"""Seconds between two deliveries during a step that produces whole answers."""
SCORED_ROWS = 32
"""Number of rows to score between two steps, so that running answers do not wait long."""


class QueueFullError(LotuneError):
    """More requests wait than the worker accepts."""


@dataclass(eq=False)
class Job:
    """A request to a model; its events go to `Worker.deliver`. `submitted` is in seconds of the monotonic clock."""

    model: AnsweringModel
    request: Request
    submitted: float = field(default_factory=time.monotonic)
    reader: EventReader | None = None
    id: int = -1


@dataclass(frozen=True, eq=False)
class _Scoring:
    """Rows to score with a model."""

    model: AnsweringModel
    rows: Sequence[Continuation]
    top: int
    adapter: str | None
    result: Future[list[list[ScoredToken]]]


Delivery = list[tuple[Job, list[Event]]]


class Worker:
    """Answers jobs in a thread of its own, started by `start`.

    `deliver` receives the events of a step in that thread, and must not block. Jobs of a full queue are refused:
    `max_waiting` may wait for a place among the running ones.
    """

    def __init__(
        self, models: Sequence[AnsweringModel], deliver: Callable[[Delivery], None], *, max_waiting: int
    ) -> None:
        self.models, self.deliver, self.max_waiting = tuple(models), deliver, max_waiting
        self.failure: BaseException | None = None
        self._changed = threading.Condition()
        self._arrivals: deque[Job] = deque()
        self._cancelled: list[Job] = []
        self._scorings: deque[_Scoring] = deque()
        self._open: dict[Job, None] = {}
        self._closing = False
        self._flushed = 0.0
        self._thread = threading.Thread(target=self._run, name="lotune worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, all or none.

        Raises: QueueFullError if too many wait; RunError after `close`, or once the worker has failed.
        """
        with self._changed:
            self._check_open()
            if self.num_waiting + len(jobs) > self.max_waiting:
                raise QueueFullError("the queue", f"{self.num_waiting} requests wait", f"at most {self.max_waiting}")
            self._arrivals += jobs
            self._changed.notify_all()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End jobs, waiting or running; those that have ended stay as they are."""
        with self._changed:
            self._cancelled += jobs
            self._changed.notify_all()

    def score(
        self, model: AnsweringModel, rows: Sequence[Continuation], top: int, adapter: str | None
    ) -> Future[list[list[ScoredToken]]]:
        """Return the future result of `LogLikelihood.score_tokens`. Raises: as `submit` does."""
        scoring = _Scoring(model, rows, top, adapter, Future())
        with self._changed:
            self._check_open()
            if len(self._scorings) >= self.max_waiting:
                raise QueueFullError("the queue", f"{len(self._scorings)} prompts wait", f"at most {self.max_waiting}")
            self._scorings.append(scoring)
            self._changed.notify_all()
        return scoring.result

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Accept no more jobs, and wait until all have ended; return whether they did in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether the worker answers jobs."""
        return self._thread.is_alive() and self.failure is None

    @property
    def num_waiting(self) -> int:
        """The number of jobs without a place among the running ones."""
        return len(self._arrivals) + sum(model.engine.num_waiting for model in self.models)

    @property
    def num_running(self) -> int:
        """The number of running jobs."""
        return sum(model.engine.num_running for model in self.models)

    def _check_open(self) -> None:
        if self._closing or self.failure is not None:
            raise RunError("the worker", "accepts no more requests", remedy="start the server again")

    def _run(self) -> None:
        try:
            while self._wait():
                self._admit()
                self._score()
                for model in self.models:
                    model.engine.step()
                self._deliver()
        except BaseException as error:  # a failure outside a step: every client must hear of it
            self._fail(error)

    def _wait(self) -> bool:
        """Wait for work; return whether there is any, or may be."""
        with self._changed:
            while not (self._arrivals or self._cancelled or self._scorings or self._open):
                if self._closing:
                    return False
                self._changed.wait()
        return True

    def _admit(self) -> None:
        with self._changed:
            arrivals, cancelled = list(self._arrivals), self._cancelled
            self._cancelled = []
            for job in arrivals:  # within the lock, so that each is counted as waiting at all times
                self._submit(job)
            self._arrivals.clear()
        self._cancel(cancelled)

    def _submit(self, job: Job) -> None:
        engine = job.model.engine
        job.id = engine.submit(job.request, on_token=self._flush if engine.whole_answers else None)
        job.reader = engine.reader(job.id)
        self._open[job] = None

    def _cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job in self._open:
                job.model.engine.cancel(job.id)

    def _score(self) -> None:
        """Score rows of waiting calls for one model and adapter."""
        with self._changed:
            calls = [self._scorings.popleft()] if self._scorings else []
            while self._scorings and sum(len(call.rows) for call in calls) < SCORED_ROWS:
                first, following = calls[0], self._scorings[0]
                if (following.model, following.adapter) != (first.model, first.adapter):
                    break
                calls.append(self._scorings.popleft())
        if calls:
            _answer_scorings(calls)

    def _flush(self, token: int) -> None:
        """Deliver tokens during a step that produces whole answers, and cancel what is to be cancelled."""
        if time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
        self._cancel(cancelled)
        self._deliver()

    def _deliver(self) -> None:
        self._flushed = time.monotonic()
        delivery: Delivery = []
        for job in list(self._open):
            reader = job.reader
            if reader is not None and reader.has_news:
                delivery.append((job, reader.read()))
                if reader.ended:
                    del self._open[job]
                    job.model.engine.forget(job.id)
        if delivery:
            self.deliver(delivery)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            jobs, scorings = [*self._open, *self._arrivals], list(self._scorings)
            self._open.clear()
            self._arrivals.clear()
            self._scorings.clear()
        failure = RunError("the worker", f"failed: {type(error).__name__}", remedy="start the server again")
        for scoring in scorings:
            scoring.result.set_exception(failure)
        if jobs:
            self.deliver([(job, [ErrorEvent(failure)]) for job in jobs])


def _answer_scorings(calls: Sequence[_Scoring]) -> None:
    """Set the results of calls for one model and adapter; a call that fails does so alone."""
    first, top = calls[0], max(call.top for call in calls)
    batch_tokens = first.model.engine.batch_tokens
    score = first.model.loglikelihood.score_tokens
    try:
        rows = [row for call in calls for row in call.rows]
        scores: Any = score(rows, top=top, batch_tokens=batch_tokens, adapter=first.adapter)
    except Exception as error:
        if len(calls) == 1:
            first.result.set_exception(error)
            return
        for call in calls:
            _answer_scorings([call])
        return
    for call in calls:
        own, scores = scores[: len(call.rows)], scores[len(call.rows) :]
        call.result.set_result(
            [[token._replace(top_logprobs=token.top_logprobs[: call.top]) for token in row] for row in own]
        )
