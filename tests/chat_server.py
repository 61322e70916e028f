"""An OpenAI-compatible server for tests: it takes time, has faults, and takes so many requests at once."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lotune.serve.listening import listening_socket

FAULTS = ("busy", "error", "stall", "broken", "count")


def one_percent_each(draw: random.Random) -> str:
    """Draw each of FAULTS with one percent."""
    drawn = draw.random()
    return next((kind for number, kind in enumerate(FAULTS) if drawn < (number + 1) / 100), "")


@dataclass
class FakeServer:
    """What the server does, and what it saw. `latency` and `stall` are seconds; `fault` draws one of FAULTS or ""."""

    latency: float = 0.0
    capacity: int = 10_000
    fault: Callable[[random.Random], str] = lambda draw: ""
    stall: float = 1.0
    schema: bool = True
    reply: Callable[[str], str] | None = None
    seen: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    largest: int = 0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    names: tuple[str, ...] = ("writer",)
    _open: int = 0
    _draw: random.Random = field(default_factory=lambda: random.Random(3))

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.seen["requests"] += 1
        if len(self.bodies) < 20:
            self.bodies.append(body)
        if not self.schema and "response_format" in body:
            return JSONResponse({"error": {"message": "response_format is not supported"}}, 400)
        if self._open >= self.capacity:
            self.refused += 1
            return JSONResponse({"error": {"message": "busy"}}, 429, headers={"Retry-After": "0.5"})
        self._open += 1
        self.largest = max(self.largest, self._open)
        try:
            kind = self.fault(self._draw)
            await asyncio.sleep(self.stall if kind == "stall" else self.latency)
            self.seen[kind or "answered"] += 1
            if kind == "busy":
                return JSONResponse({"error": {"message": "busy"}}, 429, headers={"Retry-After": "0.5"})
            if kind == "error":
                return JSONResponse({"error": {"message": "a fault"}}, 500)
            text = self.text(body, kind)
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return JSONResponse({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 50}})
        finally:
            self._open -= 1

    def text(self, body: dict[str, Any], kind: str) -> str:
        asked = next(message["content"] for message in body["messages"] if message["role"] == "user")
        if self.reply is not None:
            return self.reply(asked)
        names = re.findall(r"物品(\d+)", asked)
        count = 1 if kind == "count" else 3
        words = ("颜色", "产地", "重量")
        facts = re.findall(r"的(颜色|产地|重量)是(\w+?)。", asked)
        pairs = [{"question": f"物品{names[0]}的{word}？", "answer": dict(facts)[word]} for word in words[:count]]
        text = json.dumps({"pairs": pairs}, ensure_ascii=False)
        return text[:-5] if kind == "broken" else text

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": name} for name in self.names]})

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        routes = [Route("/v1/chat/completions", self.chat, methods=["POST"]), Route("/v1/models", self.models)]
        bound = listening_socket("127.0.0.1", 0)
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(60)


def article(number: int) -> str:
    """Return an article about an invented thing."""
    name = f"物品{number}"
    return f"{name}\n\n{name}的颜色是色{number}。{name}的产地是地{number}。{name}的重量是{number}克。"
