"""The HTTP application: paths, errors, and the way from a call to its response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from lotune import __version__
from lotune.errors import LotuneError
from lotune.serve.chat import ChatCall
from lotune.serve.completions import CompletionCall
from lotune.serve.errors import ApiError, api_error, invalid
from lotune.serve.gateway import Gateway
from lotune.serve.generate_text import GenerateCall
from lotune.serve.guard import Guard
from lotune.serve.keys import ApiKeys
from lotune.serve.metrics import CONTENT_TYPE
from lotune.serve.pages_app import PageOptions, add_pages, page_paths
from lotune.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ErrorBody,
    GenerateRequest,
    ResponsesRequest,
    TokenizeRequest,
)
from lotune.serve.responses import ResponsesCall
from lotune.serve.streaming import StreamedResponse, closing_on_disconnect
from lotune.serve.tokens import detokenize, tokenize, tokenizer_info

GRACE_SECONDS = 30
"""Seconds that a client may take to read an answer after the time for the answer itself."""
ERRORS: Any = {status: {"model": ErrorBody} for status in (400, 401, 404, 413, 421, 429, 500, 503)}


STREAM: Any = {200: {"content": {"text/event-stream": {}}}}
PLAIN_TEXT: Any = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@dataclass(frozen=True)
class ServerOptions:
    """Who may ask: the names of the host (none: any), the keys (None: everybody), other sites whose pages may."""

    hosts: Collection[str] = ()
    keys: ApiKeys | None = None
    cors_origins: Collection[str] = ()
    pages: PageOptions | None = None
    """What the pages show; None for a server without pages."""


class Call(Protocol):
    """A request from its body to its response."""

    async def start(self) -> None: ...
    def close(self) -> None: ...
    async def whole(self) -> dict[str, Any]: ...
    def stream(self) -> AsyncIterator[bytes]: ...


def build_app(gateway: Gateway, options: ServerOptions) -> Any:
    """Return the ASGI application of a server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gateway.start()
        yield
        gateway.draining = True
        gateway.worker.close(gateway.limits.request_seconds)
        for remote in gateway.models.remotes.values():
            await remote.close()

    app = FastAPI(
        title="lotune", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="An OpenAI-compatible server for models tuned with lotune.", responses=ERRORS,
    )  # fmt: skip
    _handle_errors(app, gateway)
    _answer(app, gateway)
    _describe(app, gateway)
    if options.pages is not None:
        add_pages(app, gateway, options.pages, options.keys)
    guarded: Any = Guard(app, gateway, options.keys, options.hosts, page_paths() if options.pages else ())
    if options.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        guarded = CORSMiddleware(
            guarded, allow_origins=list(options.cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )  # fmt: skip
    return guarded


def _answer(app: FastAPI, gateway: Gateway) -> None:
    """Add the paths that answer prompts."""

    @app.post("/v1/completions", tags=["OpenAI"], summary="Continue a text", responses=STREAM)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await respond(CompletionCall(gateway, body), bool(body.stream), request, gateway)

    @app.post("/v1/chat/completions", tags=["OpenAI"], summary="Answer a conversation", responses=STREAM)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        if (remote := gateway.models.remotes.get(body.model or "")) is not None:
            return await remote.respond(body)
        return await respond(ChatCall(gateway, body), bool(body.stream), request, gateway)

    @app.post("/v1/responses", tags=["OpenAI"], summary="Answer a text or a conversation", responses=STREAM)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        return await respond(ResponsesCall(gateway, body), bool(body.stream), request, gateway)

    @app.post(
        "/generate", tags=["lotune"], summary="Answer a question as a stream of plain text", responses=PLAIN_TEXT,
        response_class=Response,
    )  # fmt: skip
    async def generate(body: GenerateRequest, request: Request) -> Response:
        form = {"media_type": "text/plain; charset=utf-8", "failed": GenerateCall.failed}
        return await respond(GenerateCall(gateway, body), True, request, gateway, **form)


async def respond(call: Call, stream: bool, request: Request, gateway: Gateway, **form: Any) -> Response:
    """Return the response of a call, whose places are freed if the client goes away; `form` is for StreamedResponse."""
    async with closing_on_disconnect(request.receive, call.close):
        await call.start()
        if not stream:
            return Response(orjson.dumps(await call.whole()), media_type="application/json")
    seconds = gateway.limits.request_seconds + GRACE_SECONDS
    return StreamedResponse(call.stream(), call.close, seconds=seconds, **form)


def _describe(app: FastAPI, gateway: Gateway) -> None:
    """Add the paths that tell about the server and its tokenisers."""

    @app.get("/v1/models", tags=["OpenAI"], summary="List the models")
    async def models() -> Any:
        own = [model_entry(served) for served in gateway.models]
        return {"object": "list", "data": [*own, *(remote_entry(name) for name in gateway.models.remotes)]}

    @app.get("/v1/models/{name:path}", tags=["OpenAI"], summary="Describe a model")
    async def model(name: str) -> Any:
        return remote_entry(name) if name in gateway.models.remotes else model_entry(gateway.models.named(name))

    @app.post("/tokenize", tags=["tokens"], summary="Token ids of a text")
    async def tokenize_(body: TokenizeRequest) -> Any:
        return tokenize(gateway, body)

    @app.post("/detokenize", tags=["tokens"], summary="Text of token ids")
    async def detokenize_(body: DetokenizeRequest) -> Any:
        return detokenize(gateway, body)

    @app.get("/tokenizer_info", tags=["tokens"], summary="Special tokens and chat template")
    async def tokenizer_info_(model: str | None = None) -> Any:
        return tokenizer_info(gateway.models.named(model))

    @app.get("/health", tags=["server"], summary="Whether the server works")
    async def health() -> Any:
        if not gateway.worker.is_alive:
            raise ApiError(503, "the worker has failed", "server_error", code="worker_failed")
        return {"status": "ok"}

    @app.get("/ready", tags=["server"], summary="Whether the server accepts requests")
    async def ready() -> Any:
        if gateway.draining or not gateway.worker.is_alive:
            raise ApiError(503, "the server accepts no requests", "server_error", code="not_ready")
        return {"status": "ready"}

    @app.get(
        "/metrics", tags=["server"], summary="Figures for Prometheus", responses=PLAIN_TEXT, response_class=Response
    )
    async def metrics() -> Response:
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)


def model_entry(served: Any) -> dict[str, Any]:
    """Return a model as /v1/models lists it."""
    return {
        "id": served.name, "object": "model", "created": served.created, "owned_by": "lotune",
        "root": served.parent or served.name, "parent": served.parent, "max_model_len": served.context,
        "int8_agreement": served.int8_agreement,
    }  # fmt: skip


def remote_entry(name: str) -> dict[str, Any]:
    """Return a model of another server as /v1/models lists it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "remote"}


def _handle_errors(app: FastAPI, gateway: Gateway) -> None:
    """Give all errors OpenAI's shape, and keep stack traces in the process."""

    def response(error: ApiError) -> Response:
        gateway.metrics.refused(error.status)
        return Response(orjson.dumps(error.body()), error.status, error.headers, "application/json")

    @app.exception_handler(ApiError)
    @app.exception_handler(LotuneError)
    async def own(_: Request, error: Exception) -> Response:
        return response(api_error(error))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return response(api_error(error))

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        message = str(first["msg"]).removeprefix("Value error, ")
        return response(invalid(f"{place}: {message}" if place else message, place or None))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        message = f"{request.method} {request.url.path[:100]}: {error.detail}"
        return response(ApiError(error.status_code, message, code=code, headers=error.headers))
