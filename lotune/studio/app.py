"""The HTTP application of a studio: its pages, errors, and the calls about files, bases and recipes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from lotune import __version__
from lotune.errors import LotuneError
from lotune.library_errors import translate_error
from lotune.studio.bases import hub_base, local_bases
from lotune.studio.errors import CallError, call_error
from lotune.studio.guard import Guard
from lotune.studio.pages_app import add_pages
from lotune.studio.protocol import Name, NameQuery, OfRun, json
from lotune.studio.run_calls import add_run_calls
from lotune.studio.studio import Studio
from lotune.studio.uploads import save_upload
from lotune.studio.workspace import MAX_LISTED, RECIPE_SUFFIXES, is_row_file

MAX_BODY_BYTES = 4 * 2**20
"""Largest body of a call that is no upload."""
UPLOADS = "/api/files"


@dataclass(frozen=True)
class StudioOptions:
    """Who may ask: the token, the port in the address, and the names under which the studio may be asked.

    `once` opens the pages a single time in place of the token.
    """

    token: str
    port: int
    loopback: bool = True
    hosts: Collection[str] = ()
    once: str = ""


class Fault(BaseModel):
    """What is at fault, as a program and as a person reads it."""

    model_config = ConfigDict(extra="allow")
    code: str
    message: str


class ErrorBody(BaseModel):
    """The body of a refused call."""

    error: Fault


ERRORS: Any = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 409, 413, 415, 421, 422, 502, 503, 507)
}


class Rows(BaseModel):
    """A file of rows to write a recipe for; what is not named is recognised."""

    rows: Name
    base: Name = "nano"
    task: Annotated[str, Field(max_length=100)] | None = None
    columns: Annotated[dict[str, str], Field(max_length=100)] = {}


class Reading(BaseModel):
    """Another way to read the rows of a recipe."""

    recipe: Name
    task: Annotated[str, Field(max_length=100)] | None = None
    columns: Annotated[dict[str, str], Field(max_length=100)] = {}


class Changes(BaseModel):
    """Changes of a recipe by dotted key: a text as in an override of the command line, null for the default."""

    recipe: Name
    changes: Annotated[dict[str, Any], Field(max_length=500)]


class Estimated(BaseModel):
    """A recipe to estimate; `allow_outside` lets it read files outside of the folder."""

    name: Name
    allow_outside: bool = False


def build_app(studio: Studio, options: StudioOptions) -> Any:
    """Return the ASGI application of a studio."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with studio.working():
            yield

    app = FastAPI(
        title="lotune studio", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Start, watch and continue the runs of a folder.", responses=ERRORS,
    )  # fmt: skip
    _handle_errors(app)
    _add_file_calls(app, studio)
    _add_recipe_calls(app, studio)
    add_run_calls(app, studio)
    add_pages(app, studio)
    return Guard(
        _Bounded(app), options.token, options.port,
        loopback=options.loopback, hosts=options.hosts, once=options.once,
    )  # fmt: skip


def _add_file_calls(app: FastAPI, studio: Studio) -> None:
    workspace = studio.workspace

    @app.get("/api/folder", tags=["files"], summary="List the files of rows and the recipes")
    async def folder() -> Response:
        return json(await asyncio.to_thread(_listing, studio))

    @app.put(
        UPLOADS, tags=["files"], summary="Write a file of rows or a recipe into the folder", status_code=201,
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {
            "schema": {"type": "string", "format": "binary"}}}}},
    )  # fmt: skip
    async def upload(request: Request, name: NameQuery, replace: bool = False) -> Response:
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 19 else None
        written = await save_upload(workspace, name, size, request.stream(), replace=replace)
        return json({"name": name, "bytes": written}, 201)

    @app.get("/api/bases", tags=["bases"], summary="List nano, the models of the folder and those of its runs")
    async def bases() -> Response:
        return json({"bases": await asyncio.to_thread(local_bases, workspace, studio.runs)})

    @app.get("/api/bases/hub", tags=["bases"], summary="Size of a model on the hub; nothing is fetched")
    async def hub(name: NameQuery) -> Response:
        return json(await asyncio.to_thread(hub_base, name))


def _add_recipe_calls(app: FastAPI, studio: Studio) -> None:
    read = studio.readers.ask

    @app.get("/api/settings", tags=["recipes"], summary="List all settings with type, default and help")
    async def settings() -> Response:
        return json({"settings": await read("settings")})

    @app.get("/api/recipe", tags=["recipes"], summary="A recipe as a form")
    async def recipe(name: NameQuery) -> Response:
        return json(await _with_run(studio, await read("form", recipe=name)))

    @app.post("/api/recipe", tags=["recipes"], summary="Write a first recipe for a file of rows", status_code=201)
    async def first(body: Rows) -> Response:
        form = await read("init", rows=body.rows, base=body.base, task=body.task, columns=body.columns)
        return json(await _with_run(studio, form), 201)

    @app.patch("/api/recipe", tags=["recipes"], summary="Change settings of a recipe; its comments stay")
    async def change(body: Changes) -> Response:
        await _require_unused(studio, body.recipe)
        return json(await _with_run(studio, await read("change", recipe=body.recipe, changes=body.changes)))

    @app.post("/api/recipe/read", tags=["recipes"], summary="Read the rows as another task or with other columns")
    async def reread(body: Reading) -> Response:
        await _require_unused(studio, body.recipe)
        form = await read("reread", recipe=body.recipe, task=body.task, columns=body.columns)
        return json(await _with_run(studio, form))

    @app.post("/api/recipe/copy", tags=["recipes"], summary="Copy the recipe of a run, to run it with a change",
              status_code=201)  # fmt: skip
    async def copy(body: OfRun) -> Response:
        return json(await _with_run(studio, await read("copy", run=body.run)), 201)

    @app.get("/api/recipe/preview", tags=["recipes"], summary="The first rows as the model will see them")
    async def preview(name: NameQuery, allow_outside: bool = False) -> Response:
        return json(await read("preview", recipe=name, allow_outside=allow_outside))

    @app.post("/api/recipe/estimate", tags=["recipes"], summary="Time, memory and disk space of a run; ask until done")
    async def estimate(body: Estimated) -> Response:
        if not studio.estimates.is_running(body.name):
            await read("startable", recipe=body.name, allow_outside=body.allow_outside)
        return json(studio.estimates.ask(body.name))


async def _with_run(studio: Studio, form: dict[str, Any]) -> dict[str, Any]:
    """Return a form with the state of the run of its name; None if there is none yet."""
    try:
        state = (await asyncio.to_thread(studio.runs.state, form["run"])).name
    except CallError:
        state = None
    return {**form, "run_state": state}


async def _require_unused(studio: Studio, recipe: str) -> None:
    """Raise CallError if a run was made with a recipe: what it says of that run must stay true."""
    form = await studio.readers.ask("form", recipe=recipe)
    if (await _with_run(studio, form))["run_state"] is not None:
        raise CallError(
            409, "recipe_in_use", f"the run {form['run']} was made with {recipe}", "copy it, and change the copy"
        )


def _listing(studio: Studio) -> dict[str, Any]:
    rows, recipes = [], []
    for number, (name, status) in enumerate(studio.workspace.files()):
        if number >= 20 * MAX_LISTED:
            break
        entry = {"name": name, "bytes": status.st_size, "at": status.st_mtime}
        if Path(name).suffix in RECIPE_SUFFIXES:
            recipes.append(entry)
        elif is_row_file(name):
            rows.append(entry)

    def latest(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(entries, key=lambda entry: -float(entry["at"]))[:MAX_LISTED]

    return {"folder": str(studio.workspace.folder), "rows": latest(rows), "recipes": latest(recipes)}


def _handle_errors(app: FastAPI) -> None:
    def response(error: CallError) -> Response:
        return Response(orjson.dumps(error.body()), error.status, media_type="application/json")

    @app.exception_handler(CallError)
    async def refused(_: Request, error: CallError) -> Response:
        return response(error)

    @app.exception_handler(LotuneError)
    async def lotune_error(_: Request, error: LotuneError) -> Response:
        return response(call_error(error))

    @app.exception_handler(OSError)
    async def system_error(_: Request, error: OSError) -> Response:
        own = translate_error(error)
        return response(call_error(own, 507) if own is not None else CallError(507, "system", str(error.strerror)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        clauses = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()[:5]]
        return response(CallError(422, "invalid", "; ".join(clauses)))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        answer = response(CallError(error.status_code, "http", str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer


class _Bounded:
    """An ASGI application around another that stops reading bodies that are too large, uploads excepted."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] == UPLOADS:
            await self.app(scope, receive, send)
            return
        read = 0

        async def bounded() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES} bytes")
            return message

        await self.app(scope, bounded, send)
