"""Figures of the server in Prometheus' format; those that vLLM has too have its names, behind `lotune:`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from lotune.generate.requests import Event, FinishEvent, TokenEvent

if TYPE_CHECKING:
    from lotune.generate.worker import Worker
    from lotune.serve.gateway import AnswerJob

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms of a server, and gauges of its worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._first = self._histogram("time_to_first_token_seconds", "Time from a request to its first token.")
        self._between = self._histogram("inter_token_latency_seconds", "Time between two tokens of an answer.")
        self._whole = self._histogram("e2e_request_latency_seconds", "Time from a request to the end of its answer.")
        self._tokens = Counter("lotune:generation_tokens", "Tokens generated.", registry=self.registry)
        self._ended = Counter(
            "lotune:request_success", "Answers that ended, by their reason.", ["finished_reason"],
            registry=self.registry,
        )  # fmt: skip
        self.int8_agreement = Gauge(
            "lotune:int8_agreement", "Share of float32's tokens that int8 chooses.", ["model"], registry=self.registry
        )
        self._refused = Counter(
            "lotune:requests_refused", "Requests refused, by status.", ["status"], registry=self.registry
        )

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"lotune:{name}", text, buckets=SECONDS, registry=self.registry)

    def watch(self, worker: Worker) -> None:
        """Report the state of a worker, too."""
        self.registry.register(_WorkerFigures(worker))

    def count(self, job: AnswerJob, events: Sequence[Event], now: float) -> None:
        """Count the events that a job got at `now`, in seconds of the monotonic clock."""
        tokens = sum(isinstance(event, TokenEvent) for event in events)
        if tokens:
            if job.last_token:
                self._between.observe((now - job.last_token) / tokens)
            else:
                self._first.observe(now - job.submitted)
            job.last_token = now
            self._tokens.inc(tokens)
        if isinstance(last := events[-1], FinishEvent):
            self._whole.observe(now - job.submitted)
            self._ended.labels(last.completion.finish_reason).inc()

    def refused(self, status: int) -> None:
        """Count a refused request."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _WorkerFigures:
    """Figures that are read from the worker when they are asked for."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def collect(self) -> Iterator[Any]:
        engines = [model.engine for model in self.worker.models]
        capacity = sum(engine.batch_tokens for engine in engines)
        usage = sum(engine.num_tokens for engine in engines) / capacity
        yield GaugeMetricFamily("lotune:num_requests_running", "Running requests.", self.worker.num_running)
        yield GaugeMetricFamily("lotune:num_requests_waiting", "Waiting requests.", self.worker.num_waiting)
        yield GaugeMetricFamily("lotune:kv_cache_usage_perc", "Used part of the KV cache, 0 to 1.", usage)
        prompts, shared = sum(engine.prompt_tokens for engine in engines), sum(e.shared_tokens for e in engines)
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts.", prompts),
            ("prefix_cache_queries", "Tokens of prompts looked up in the prefix cache.", prompts),
            ("prefix_cache_hits", "Tokens of prompts that were not computed again.", shared),
        ):
            yield CounterMetricFamily(f"lotune:{name}", text, value)
