"""Many clients: each gets its own answer, a full queue refuses, and whoever goes away frees a place."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers import Reply, load, running

from lotune.generate.requests import Request
from lotune.serve.limits import Limits
from lotune.serve.models import ServedModel

PATIENCE = 120.0


@pytest.fixture
def model(small_base: Path) -> ServedModel:
    return load(small_base)


@pytest.fixture
def held(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Steps of the model wait for this event; released at the end."""
    go, step = threading.Event(), model.answering.engine.step

    def held_step() -> None:
        assert go.wait(PATIENCE)
        step()

    monkeypatch.setattr(model.answering.engine, "step", held_step)
    yield go
    go.set()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_clients_side_by_side_get_the_answers_that_they_get_alone(model: ServedModel, small_base: Path) -> None:
    prompts = [f"计算 {number} + {number % 7}" for number in range(24)]
    alone = load(small_base).answering.engine
    expected = [
        dict(alone.stream([Request(tuple(model.encode(prompt)), 5 + number)]))[0].text
        for number, prompt in enumerate(prompts)
    ]

    def ask(number: int) -> str:
        fields = {"prompt": prompts[number], "max_tokens": 5 + number, "temperature": 0}
        if number % 2:
            return str(server.post("/v1/completions", **fields).json["choices"][0]["text"])
        events = server.post("/v1/completions", **fields, stream=True).events
        return "".join(event["choices"][0]["text"] for event in events)

    with running([model]) as server, ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(24))) == expected


def test_a_full_queue_refuses_and_says_when_to_try_again(model: ServedModel, held: threading.Event) -> None:
    fields = {"prompt": "1 + 1", "max_tokens": 3, "temperature": 0}
    with running([model], Limits(max_waiting=4)) as server, ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(server.post, "/v1/completions", **fields) for _ in range(4)]
        assert server.gateway is not None
        until(lambda: server.gateway.worker.num_waiting == 4)  # type: ignore[union-attr]
        assert server.metric("num_requests_waiting") == 4
        refused = server.post("/v1/completions", **fields)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert (refused.json["error"]["code"], refused.json["error"]["type"]) == ("queue_full", "rate_limit_error")
        assert server.post("/v1/completions", **fields, n=5).status == 429  # all or none
        held.set()
        assert [future.result().status for future in accepted] == [200] * 4
        assert server.post("/v1/completions", **fields).status == 200
        assert server.metric('requests_refused_total{status="429"}') == 2


def test_the_openai_package_tries_again(model: ServedModel, held: threading.Event) -> None:
    """It waits as long as the refusal says, and gets its answer."""
    openai = pytest.importorskip("openai")
    fields = {"prompt": "1 + 1", "max_tokens": 3, "temperature": 0}
    with running([model], Limits(max_waiting=1)) as server, ThreadPoolExecutor(2) as pool:
        assert server.gateway is not None
        first = pool.submit(server.post, "/v1/completions", **fields)
        until(lambda: server.gateway.worker.num_waiting == 1)  # type: ignore[union-attr]
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5)
        second = pool.submit(client.completions.create, model="small", **fields)
        until(lambda: b'requests_refused_total{status="429"}' in server.get("/metrics").body)
        held.set()
        assert second.result().choices[0].text == first.result().json["choices"][0]["text"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(
    model: ServedModel, held: threading.Event, stream: bool, small_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it waits or runs: the step after that finds the request ended, and the next answer is right."""
    fields: dict[str, Any] = {"prompt": "1 + 1", "max_tokens": 900, "temperature": 0}
    with running([model]) as server:
        assert server.gateway is not None
        worker, cancelled = server.gateway.worker, threading.Event()
        cancel = worker.cancel

        def seen_cancel(jobs: Any) -> None:
            cancel(jobs)
            cancelled.set()

        monkeypatch.setattr(worker, "cancel", seen_cancel)
        connection = server.connection()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps({**fields, "stream": stream}).encode(), headers)
        until(lambda: worker.num_waiting == 1)
        connection.close()
        assert cancelled.wait(PATIENCE)
        held.set()
        until(lambda: worker.num_waiting + worker.num_running == 0)
        assert model.answering.engine.is_idle
        reply = server.post("/v1/completions", prompt="2 + 2", max_tokens=6, temperature=0)
    engine = load(small_base).answering.engine
    [(_, expected)] = engine.stream([Request(tuple(model.encode("2 + 2")), 6)])
    assert reply.json["choices"][0]["text"] == expected.text


def test_clients_that_leave_while_they_read_leave_nothing_behind(model: ServedModel) -> None:
    with running([model]) as server:
        assert server.gateway is not None
        worker = server.gateway.worker
        body = json.dumps(
            {"prompt": "1 + 1", "max_tokens": 900, "temperature": 1, "stream": True, "logprobs": 1}
        ).encode()
        for _ in range(6):
            connection = server.connection()
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.readline().startswith(b"data: ")
            response.close()
            connection.close()
        until(lambda: worker.num_waiting + worker.num_running == 0)
        assert not worker._open


def test_a_conversation_that_goes_on_does_not_read_its_beginning_again(model: ServedModel, small_base: Path) -> None:
    """Also after other conversations; the answer is that of a model without a cache."""
    messages = [{"role": "user", "content": "the answer is short 计算 1 + 1 " * 4}]
    fields = {"max_tokens": 8, "temperature": 0}
    with running([model]) as server:

        def ask(conversation: list[dict[str, str]]) -> Reply:
            return server.post("/v1/chat/completions", messages=conversation, **fields)

        first = ask(messages).json
        longer = [*messages, {"role": "assistant", "content": first["choices"][0]["message"]["content"]}]
        longer.append({"role": "user", "content": "and 2?"})
        for number in range(3):
            ask([{"role": "user", "content": f"{number} is another thing " * 9}])
        before = server.metric("prefix_cache_hits_total")
        second = ask(longer).json
        hits = server.metric("prefix_cache_hits_total") - before
    assert hits >= first["usage"]["prompt_tokens"] - 1
    uncached = load(small_base, prefix_cache_bytes=0)
    with running([uncached]) as server:
        reply = server.post("/v1/chat/completions", messages=longer, **fields).json
    assert reply["choices"] == second["choices"]


def test_an_answer_that_takes_too_long_ends_with_what_there_is(model: ServedModel) -> None:
    with running([model], Limits(request_seconds=0.001)) as server:
        reply = server.post("/v1/completions", prompt="1 + 1", max_tokens=900, temperature=0).json
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] < 900


def test_a_request_that_fails_in_the_engine_fails_alone(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text of the error leaves the process."""
    import torch

    forward = model.answering.engine._backend.slots.logits  # type: ignore[attr-defined]
    failing = threading.Event()

    def broken(*words: Any, **named: Any) -> torch.Tensor:
        if failing.is_set():
            failing.clear()
            raise RuntimeError("secret detail")
        result: torch.Tensor = forward(*words, **named)
        return result

    monkeypatch.setattr(model.answering.engine._backend.slots, "logits", broken)  # type: ignore[attr-defined]
    with running([model]) as server:
        failing.set()
        reply = server.post("/v1/completions", prompt="1 + 1", max_tokens=5, temperature=0)
        assert reply.status == 500
        assert b"secret" not in reply.body
        assert b"Traceback" not in reply.body
        failing.set()
        streamed = server.post("/v1/completions", prompt="1 + 1", max_tokens=5, temperature=0, stream=True)
        assert streamed.events[-1]["error"]["code"] == "internal_error"
        assert b"secret" not in streamed.body
        assert server.post("/v1/completions", prompt="1 + 1", max_tokens=5, temperature=0).status == 200
        assert server.get("/health").status == 200


def test_a_worker_that_fails_tells_everybody(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise MemoryError

    with running([model]) as server:
        monkeypatch.setattr(model.answering.engine, "step", broken)
        reply = server.post("/v1/completions", prompt="1 + 1", max_tokens=5)
        assert reply.status == 503
        assert server.get("/health").status == 503
        assert server.get("/ready").status == 503
        assert server.post("/v1/completions", prompt="1 + 1", max_tokens=5).json["error"]["code"] == "unavailable"


def test_requests_are_answered_in_the_order_in_which_they_came(model: ServedModel) -> None:
    """With room for one row, each waits for the one before it."""
    model.answering.engine.batch_tokens = 1
    ended: list[int] = []
    with running([model]) as server, ThreadPoolExecutor(5) as pool:
        assert server.gateway is not None

        def ask(number: int) -> None:
            assert server.post("/v1/completions", prompt=f"{number}", max_tokens=30, temperature=0).status == 200
            ended.append(number)

        futures = []
        for number in range(5):
            futures.append(pool.submit(ask, number))
            until(lambda: server.gateway.worker.num_waiting + server.gateway.worker.num_running + len(ended) > number)  # type: ignore[union-attr]  # noqa: B023
        for future in futures:
            future.result()
    assert ended == sorted(ended)
