"""The way from the event loop to the worker's thread and back: a group of jobs for each HTTP request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from lotune.generate.loglikelihood import Continuation, ScoredToken
from lotune.generate.requests import Completion, ErrorEvent, Event, FinishEvent, Request, TokenEvent
from lotune.generate.worker import Delivery, Job, Worker
from lotune.serve.errors import api_error, shutting_down
from lotune.serve.limits import Limits
from lotune.serve.metrics import Metrics
from lotune.serve.models import Models, ServedModel


@dataclass(eq=False)
class AnswerJob(Job):
    """A job of a group: its number there, when its last token came, and whether it has ended."""

    answers: Answers | None = None
    number: int = 0
    last_token: float = field(default=0.0)
    ended: bool = False


@dataclass(frozen=True)
class Piece:
    """What a step adds to an answer: its number in the group, tokens, their text, and the completion at its end."""

    number: int
    tokens: tuple[TokenEvent, ...]
    text: str
    completion: Completion | None


class Answers:
    """The answers to the requests of one group, as they come."""

    def __init__(self, gateway: Gateway) -> None:
        self.jobs: list[AnswerJob] = []
        self._gateway, self._open = gateway, 0
        self._pieces: list[Piece] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._closed = False

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """Yield what has come since the last time, until all answers have ended or the group is closed.

        Raises: ApiError if an answer failed.
        """
        try:
            while not self._closed:
                if self._pieces:
                    pieces, self._pieces = self._pieces, []
                    yield pieces
                elif self._error is not None:
                    raise api_error(self._error)
                elif not self._open:
                    return
                else:
                    self._news.clear()
                    await self._news.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Free the places of the answers that have not ended."""
        self._closed = True
        self._news.set()
        unfinished = [job for job in self.jobs if not job.ended]
        if unfinished:
            self._gateway.worker.cancel(unfinished)

    def start(self, jobs: Sequence[AnswerJob]) -> None:
        """Take the jobs that were submitted."""
        self.jobs, self._open = list(jobs), len(jobs)

    def receive(self, job: AnswerJob, events: Sequence[Event]) -> None:
        """Take events of a job."""
        tokens = tuple(event for event in events if isinstance(event, TokenEvent))
        text = "".join(event.text for event in events if not isinstance(event, ErrorEvent))
        last, completion = events[-1], None
        if isinstance(last, FinishEvent):
            completion = last.completion
        elif isinstance(last, ErrorEvent):
            self._error = last.error
        if not isinstance(last, TokenEvent):
            job.ended, self._open = True, self._open - 1
        self._pieces.append(Piece(job.number, tokens, text, completion))
        self._news.set()


class Gateway:
    """The models of a server with the worker that answers for them; `draining` refuses what comes."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self.worker = Worker(models.answering, self._deliver, max_waiting=limits.max_waiting)
        self.draining = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the worker; the running event loop gets its events."""
        self._loop = asyncio.get_running_loop()
        self.worker.start()

    def submit(self, served: ServedModel, requests: Sequence[Request]) -> Answers:
        """Submit the requests of one group.

        Raises: ApiError, also for requests that the engine cannot answer; QueueFullError.
        """
        if self.draining:
            raise shutting_down()
        served.answering.engine.check(requests)
        answers = Answers(self)
        jobs = [
            AnswerJob(served.answering, request, answers=answers, number=number)
            for number, request in enumerate(requests)
        ]
        answers.start(jobs)
        self.worker.submit(jobs)
        return answers

    async def score(self, served: ServedModel, rows: Sequence[Continuation], top: int) -> list[list[ScoredToken]]:
        """Return each token of each row with its log-probability and those of the `top` likeliest ones."""
        if self.draining:
            raise shutting_down()
        return await asyncio.wrap_future(self.worker.score(served.answering, rows, top, served.adapter))

    def _deliver(self, delivery: Delivery) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._dispatch, delivery)
        except RuntimeError:  # the loop has ended, and with it all clients
            self.worker.cancel([job for job, _ in delivery])

    def _dispatch(self, delivery: Delivery) -> None:
        now = time.monotonic()
        for job, events in delivery:
            assert isinstance(job, AnswerJob)
            self.metrics.count(job, events, now)
            if job.answers is not None:
                job.answers.receive(job, events)
