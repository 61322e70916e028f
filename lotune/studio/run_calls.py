"""The calls about runs: start, stop, continue, delete, look at, compare, bundle, export and talk."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from lotune.settings import flatten, read_yaml
from lotune.studio.answers import MAX_PAGE, MAX_QUERY, Filter, Selection
from lotune.studio.dispatcher import at_once, set_at_once
from lotune.studio.errors import CallError, not_found
from lotune.studio.jobs import RUN_JOB, Job, interrupt
from lotune.studio.protocol import Name, NameQuery, OfRun, json
from lotune.studio.run_states import ACTIVE, process_of, state_of
from lotune.studio.scorecards import scorecard_tables
from lotune.studio.studio import Studio
from lotune.studio.verbs import compare_runs
from lotune.studio.workspace import RUNS

Language = Literal["en", "zh"]
DOWNLOADS = "downloads"
"""Folder for bundles and exported models, below the studio's folder."""
RUN_FILES = ("report.html", "report.md", "scorecard.json", "recipe.yaml", "metrics.jsonl")
"""Files of a run that can be downloaded."""
MADE_FILES: Mapping[str, str] = {"bundle": ".zip", "gguf": ".gguf"}
"""Files that a command makes of a run: the kind of its job, and the suffix of the file."""
MAX_COMPARED = 8
EXAMPLE = "demo"
"""The recipe of lotune that one click starts."""


class Start(BaseModel):
    """A recipe to run; `allow_outside` lets it read files outside of the folder."""

    recipe: Name
    allow_outside: bool = False
    lang: Language | None = None
    """Language of the report; None for that of the studio's locale."""


class Bundle(BaseModel):
    """The hand-in of a run."""

    run: Name
    team: Annotated[str, Field(min_length=1, max_length=64)]


class Question(BaseModel):
    """A question to the models of a run, by the names of its fields."""

    run: Name
    values: Annotated[dict[str, Annotated[str, Field(max_length=100_000)]], Field(max_length=50)]


class QueueSize(BaseModel):
    """How many runs may work at the same time."""

    at_once: Annotated[int, Field(ge=1, le=64)]


def add_run_calls(app: FastAPI, studio: Studio) -> None:
    """Add the calls about runs to an application."""
    _add_start_calls(app, studio)
    _add_look_calls(app, studio)
    _add_result_calls(app, studio)


def _add_start_calls(app: FastAPI, studio: Studio) -> None:
    runs = studio.runs

    @app.post("/api/runs", tags=["runs"], summary="Start a recipe: it waits for its turn", status_code=201)
    async def start(body: Start) -> Response:
        name = await studio.readers.ask("startable", recipe=body.recipe, allow_outside=body.allow_outside)
        words = ["run", body.recipe, *(["--lang", body.lang] if body.lang else [])]
        return json(await asyncio.to_thread(_start, studio, name, words), 201)

    @app.post("/api/example", tags=["runs"], summary="Start the demo: nano learns arithmetic", status_code=201)
    async def example() -> Response:
        recipe = await studio.readers.ask("example", name=EXAMPLE)
        return json(await asyncio.to_thread(_start, studio, Path(recipe).stem, ["run", recipe]), 201)

    @app.post("/api/run/stop", tags=["runs"], summary="Stop a run as Ctrl-C does, or take it out of the queue")
    async def stop(body: OfRun) -> Response:
        return json(await asyncio.to_thread(_stop, studio, body.run))

    @app.post("/api/run/continue", tags=["runs"], summary="Continue a run that has stopped or died", status_code=201)
    async def continue_(body: OfRun) -> Response:
        folder, job = await asyncio.to_thread(runs.find, body.run)
        words = continue_words(studio, body.run, folder, job)
        return json(await asyncio.to_thread(_start, studio, body.run, words, again=True), 201)

    @app.delete("/api/run", tags=["runs"], summary="Delete a run and all its files")
    async def delete(run: NameQuery) -> Response:
        await asyncio.to_thread(runs.delete, run)
        return json({"deleted": run})

    @app.get("/api/queue", tags=["runs"], summary="How many runs may work at the same time")
    async def queue() -> Response:
        return json({"at_once": at_once(studio.workspace.folder)})

    @app.put("/api/queue", tags=["runs"], summary="Set how many runs may work at the same time")
    async def set_queue(body: QueueSize) -> Response:
        set_at_once(studio.workspace.folder, body.at_once)
        return json({"at_once": body.at_once})


def _add_look_calls(app: FastAPI, studio: Studio) -> None:
    runs = studio.runs

    @app.get("/api/runs", tags=["runs"], summary="List the runs with state and figures, the latest first")
    async def list_() -> Response:
        return json({"runs": await asyncio.to_thread(runs.rows)})

    @app.get("/api/run", tags=["runs"], summary="A run: state, curves, validations, samples, answers, scorecard")
    async def picture(run: NameQuery) -> Response:
        return json(await asyncio.to_thread(_picture, studio, run))

    @app.get("/api/run/scorecard", tags=["results"], summary="The scorecard in the words and digits of the report")
    async def scorecard(run: NameQuery, lang: Language = "en") -> Response:
        return json(await asyncio.to_thread(scorecard_tables, runs.folder(run), lang))

    @app.get("/api/run/answers", tags=["results"], summary="Answers of base and tuned model, filtered, in pages")
    async def answers(
        run: NameQuery, verdict: Filter = "all", kind: Annotated[str, Query(max_length=200)] = "",
        text: Annotated[str, Query(max_length=MAX_QUERY)] = "", first: Annotated[int, Query(ge=0, le=10**9)] = 0,
        rows: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    ) -> Response:  # fmt: skip
        folder = runs.folder(run)
        page = studio.answers.page
        return json(await asyncio.to_thread(page, folder, Selection(verdict, kind, text), first, rows))

    @app.get("/api/compare", tags=["results"], summary="Settings, curves and figures of several runs")
    async def compare(run: Annotated[list[NameQuery], Query(min_length=2, max_length=MAX_COMPARED)]) -> Response:
        return json(await asyncio.to_thread(_side_by_side, studio, run))

    @app.get("/api/compare/answers", tags=["results"], summary="Paired comparison of the answers of two runs")
    async def paired(a: NameQuery, b: NameQuery) -> Response:
        folders = [runs.folder(name) for name in (a, b)]
        found = await compare_runs(studio.workspace.folder, *folders)
        words = ["lotune", "compare", *(_shown(studio, folder) for folder in folders)]
        return json({**found, "command": shlex.join(words)})


def _add_result_calls(app: FastAPI, studio: Studio) -> None:
    runs = studio.runs

    @app.post("/api/run/bundle", tags=["results"], summary="Make the hand-in of a run", status_code=202)
    async def bundle(body: Bundle) -> Response:
        folder = runs.folder(body.run)
        return json(_make(studio, "bundle", body.run, ["bundle", _shown(studio, folder), "--team", body.team]), 202)

    @app.post("/api/run/export", tags=["results"], summary="Write the tuned model as a GGUF file", status_code=202)
    async def export(body: OfRun) -> Response:
        words = ["export", "gguf", _shown(studio, runs.folder(body.run)), "--overwrite"]
        return json(_make(studio, "gguf", body.run, words), 202)

    @app.get("/api/run/file", tags=["results"], summary="Download a file of a run, its bundle or its exported model",
             response_class=FileResponse)  # fmt: skip
    async def file(run: NameQuery, name: NameQuery) -> Response:
        path = _download(studio, run, name)
        # Always as a file to keep, whatever its name: nothing of a run is shown as a page from here.
        return FileResponse(path, media_type="application/octet-stream", filename=f"{run}-{path.name}")

    @app.get("/api/run/question", tags=["results"], summary="The fields of a question to the models of a run")
    async def fields(run: NameQuery) -> Response:
        runs.folder(run)
        return json({"fields": await studio.readers.ask("fields", run=run)})

    @app.post("/api/run/question", tags=["results"], summary="The prompt of a question, as the task of a run asks it")
    async def question(body: Question) -> Response:
        runs.folder(body.run)
        return json(await studio.readers.ask("prompt", run=body.run, values=body.values))

    @app.post("/api/run/talk", tags=["results"], summary="Load base and tuned model, to talk to them")
    async def talk(body: OfRun) -> Response:
        await studio.talk.open(body.run, runs.folder(body.run))
        return json({"address": f"/talk/{quote(body.run)}"})

    @app.api_route("/talk/{run}/{path:path}", methods=["GET", "POST"], include_in_schema=False)
    async def passed_on(run: str, path: str, request: Request) -> Response:
        return await studio.talk.pass_on(run, path, request)


def _start(studio: Studio, name: str, words: Sequence[str], *, again: bool = False) -> dict[str, Any]:
    """Put a run into the queue. Raises: CallError if it is there already, or exists without `again`."""
    try:
        state = studio.runs.state(name).name
    except CallError:
        state = None
    if state in ACTIVE:
        raise CallError(409, "at_work", f"the run {name} is waiting or at work already")
    if state is not None and not again:
        raise CallError(409, "exists", f"there is a run {name} already", "continue it, or copy the recipe")
    job = studio.queue.add(RUN_JOB, name, words)
    return {"run": name, "command": job.command}


def continue_words(studio: Studio, name: str, folder: Path | None, job: Job | None) -> list[str]:
    """Return the command that continues a run: with the recipe in its folder, or as it was started without one."""
    if folder is not None:
        return ["run", f"{_shown(studio, folder)}/recipe.yaml"]
    assert job is not None
    return list(job.words)


def _stop(studio: Studio, name: str) -> dict[str, Any]:
    folder, job = studio.runs.find(name)
    if job is not None and job.state != "ended":
        stopped = job.stop()
    elif folder is not None and (process := process_of(folder)) is not None:
        interrupt(process)  # it was started in a terminal
        stopped = True
    else:
        stopped = False
    if not stopped:
        raise CallError(409, "not_running", f"the run {name} is not at work")
    return {"run": name, "state": studio.runs.state(name).name}


def _picture(studio: Studio, name: str) -> dict[str, Any]:
    folder, job = studio.runs.find(name)
    state = state_of(folder, job)
    seen: dict[str, Any] = {}
    if folder is not None:
        seen = studio.live.picture(folder, process_of(folder))
    words = continue_words(studio, name, folder, job)
    files = [file for file in RUN_FILES if folder is not None and (folder / file).is_file()]
    made = {kind: _made(studio, name, kind) for kind in MADE_FILES}
    return {
        **seen, "name": name, "state": state.name, "why": state.why, "cause": state.cause, "process": state.process,
        "output": job.last_lines() if job is not None else [],
        "command": job.command if job is not None else shlex.join(["lotune", *words]),
        "continue_command": shlex.join(["lotune", *words]), "commands": _commands(name), "files": files, "made": made,
    }  # fmt: skip


def _commands(name: str) -> list[str]:
    """Return what can be done with a run in the terminal."""
    run = f"{RUNS}/{name}"
    words = (["watch", run], ["report", run], ["serve", run, "--ui"], ["bundle", run, "--team", name],
             ["export", "gguf", run])  # fmt: skip
    return [shlex.join(["lotune", *one]) for one in words]


def _side_by_side(studio: Studio, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings that differ, and curves and figures of each run."""
    folders = [studio.runs.folder(name) for name in names]
    settings = [flatten(read_yaml(folder / "recipe.yaml")) for folder in folders]
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if key not in ("name", "runs")]
    differing = {key: [one.get(key) for one in settings] for key in keys}
    differing = {key: values for key, values in differing.items() if any(value != values[0] for value in values)}
    rows = [studio.runs.row(name) for name in names]
    pictures = [studio.live.picture(folder, None) for folder in folders]
    return {
        "runs": [
            {"figures": row, "loss": seen["loss"], "validations": seen["validations"], "gate": seen["gate"]}
            for row, seen in zip(rows, pictures, strict=True)
        ],
        "differing": differing,
    }  # fmt: skip


def _make(studio: Studio, kind: str, run: str, words: Sequence[str]) -> dict[str, Any]:
    """Start a command that makes a file of a run, unless one is at work."""
    if (made := _made(studio, run, kind))["state"] in ("waiting", "running"):
        return made
    out = _made_file(studio, run, kind)
    out.parent.mkdir(exist_ok=True)
    studio.queue.add(kind, run, [*words, "--out", _shown(studio, out)])
    return _made(studio, run, kind)


def _made(studio: Studio, run: str, kind: str) -> dict[str, Any]:
    """Return the state of a file that a command makes of a run: none, waiting, running, done or failed."""
    job = next((job for job in reversed(studio.jobs.of_run(run)) if job.kind == kind), None)
    file = _made_file(studio, run, kind)
    if job is None:
        return {"state": "none"}
    if (ended := job.ended) is None:
        return {"state": job.state, "command": job.command}
    if ended.status == 0 and file.is_file():
        return {"state": "done", "command": job.command, "file": _shown(studio, file), "bytes": file.stat().st_size}
    return {"state": "failed", "command": job.command, "cause": job.last_lines()}


def _made_file(studio: Studio, run: str, kind: str) -> Path:
    studio.workspace.run(run)
    return studio.workspace.folder / DOWNLOADS / f"{run}{MADE_FILES[kind]}"


def _download(studio: Studio, run: str, name: str) -> Path:
    folder = studio.runs.folder(run)
    if name in MADE_FILES:
        path = _made_file(studio, run, name)
    elif name in RUN_FILES:
        path = folder / name
    else:
        raise not_found(name)
    if not path.is_file() or not studio.workspace.contains(path):
        raise not_found(f"{name} of {run}")
    return path


def _shown(studio: Studio, path: Path) -> str:
    """Return a path as it is named from the studio's folder."""
    return path.relative_to(studio.workspace.folder).as_posix()
