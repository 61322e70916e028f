"""The pages of a server: chat, comparison, runs and the API, with the data that they ask for.

A page is one of a fixed table of files, and a run is found by its name among those of a folder, so no path of a request
reaches the file system.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from lotune.arena.battles import Arena
from lotune.record_files import append_record
from lotune.serve.arena_app import ArenaOptions, add_arena
from lotune.serve.errors import ApiError
from lotune.serve.gateway import Gateway
from lotune.serve.keys import ApiKeys
from lotune.serve.protocol import Message

PREFIX = "/ui"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
FILES: Mapping[str, str] = {
    **{name: f"{name}.html" for name in ("chat", "compare", "runs", "api", "arena")},
    **{name: name for name in (
        "style.css", "common.js", "texts.js", "curves.js", "chat.js", "compare.js", "runs.js", "api.js", "arena.js"
    )},
}  # fmt: skip
"""Files of the pages by the last part of their path."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What the pages may load: nothing from another place, no inline script."""
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""What a report may do: nothing but show itself."""
PRESET = {"temperature": 0.1, "top_k": 20, "max_tokens": 225}
"""The sampling settings that the pages begin with."""
MAX_FLAGS_BYTES = 64 * 2**20
"""Size of the file of flagged answers above which no more are written."""


class RunSource(Protocol):
    """The runs of a folder."""

    def list(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each run."""

    def describe(self, name: str) -> Mapping[str, Any] | None:
        """Return the curves and samples of a run, None if there is none of that name."""

    def report(self, name: str) -> bytes | None:
        """Return the report of a run as HTML, None if there is none."""


@dataclass(frozen=True)
class PageOptions:
    """What the pages show beside the models: example questions, a file for flagged answers, runs, an arena."""

    examples: Sequence[str] = ()
    flags: Path | None = None
    runs: RunSource | None = None
    arena: Arena | None = None
    arena_options: ArenaOptions = field(default_factory=ArenaOptions)


class Flag(BaseModel):
    """An answer that a person flagged, with the conversation before it."""

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]


def page_paths() -> Collection[str]:
    """Return the paths of the files, which need no key: they ask for one themselves."""
    return {"/", PREFIX, *(f"{PREFIX}/{name}" for name in FILES)}


def add_pages(app: FastAPI, gateway: Gateway, options: PageOptions, keys: ApiKeys | None = None) -> None:
    """Add the pages and their data to an application; `keys` are those of the server."""
    folder = importlib.resources.files("lotune.serve") / "pages"
    contents = {name: (folder / file).read_bytes() for name, file in FILES.items()}
    if options.arena is not None:  # the pages link to it
        contents = {name: content.replace(b"<html ", b"<html data-arena ", 1) for name, content in contents.items()}
        add_arena(app, gateway, options.arena, options.arena_options, keys)

    @app.get("/", include_in_schema=False)
    @app.get(PREFIX, include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse(f"{PREFIX.lstrip('/')}/chat")

    @app.get(PREFIX + "/config", include_in_schema=False)
    async def config() -> Any:
        return {"models": gateway.models.names, "preset": PRESET, "examples": options.examples}

    @app.post(PREFIX + "/flags", include_in_schema=False)
    async def flag(body: Flag) -> Any:
        if options.flags is None or (options.flags.exists() and options.flags.stat().st_size > MAX_FLAGS_BYTES):
            raise ApiError(507, "flagged answers are not kept", "server_error", code="flags_full")
        record = {"model": body.model, "messages": [message.plain() for message in body.messages]}
        append_record(options.flags, record)
        return {"status": "ok"}

    @app.get(PREFIX + "/runs.json", include_in_schema=False)
    async def runs(run: str = "") -> Any:
        source = _source(options)
        if not run:
            return {"runs": source.list()}
        return _found(source.describe(run), run)

    @app.get(PREFIX + "/report", include_in_schema=False)
    async def report(run: str) -> Response:
        content = _found(_source(options).report(run), run)
        return Response(content, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get(PREFIX + "/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        if name not in FILES or (name.startswith("arena") and options.arena is None):
            raise ApiError(404, "there is no such page", code="not_found")
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(contents[name], media_type=TYPES[Path(FILES[name]).suffix], headers=headers)


def _source(options: PageOptions) -> RunSource:
    if options.runs is None:
        raise ApiError(404, "this server lists no runs: start it with --runs FOLDER", code="not_found")
    return options.runs


def _found(value: Any, run: str) -> Any:
    if value is None:
        raise ApiError(404, f"there is no run {run[:100]!r} here, or it has no report yet", code="not_found")
    return value
