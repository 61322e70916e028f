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

from lotune.files import to_json
from lotune.settings import flatten, read_yaml
from lotune.studio.answers import MAX_PAGE, MAX_QUERY, Filter, Selection
from lotune.studio.dispatcher import at_once, set_at_once
from lotune.studio.errors import CallError, not_found
from lotune.studio.jobs import RUN_JOB, Job, interrupt
from lotune.studio.run_states import ACTIVE, process_of
from lotune.studio.scorecards import scorecard_tables
from lotune.studio.studio import Studio
from lotune.studio.verbs import compare_runs
from lotune.studio.workspace import RUNS

Name = Annotated[str, Field(min_length=1, max_length=200)]
NameQuery = Annotated[str, Query(min_length=1, max_length=200)]
Language = Literal["en", "zh"]
DOWNLOADS = "downloads"
"""Folder for bundles and exported models, below the studio's folder."""
RUN_FILES: Mapping[str, str] = {
    "report.html": "report.html", "report.md": "report.md", "scorecard.json": "scorecard.json",
    "recipe.yaml": "recipe.yaml", "metrics.jsonl": "metrics.jsonl",
}  # fmt: skip
"""Files of a run that can be downloaded, by the name in the call."""
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


class OfRun(BaseModel):
    """The name of a run."""

    run: Name


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


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


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
        return _json(await asyncio.to_thread(_start, studio, name, words), 201)

    @app.post("/api/example", tags=["runs"], summary="Start the demo: nano learns arithmetic", status_code=201)
    async def example() -> Response:
        recipe = await studio.readers.ask("example", name=EXAMPLE)
        return _json(await asyncio.to_thread(_start, studio, Path(recipe).stem, ["run", recipe]), 201)

    @app.post("/api/run/stop", tags=["runs"], summary="Stop a run as Ctrl-C does, or take it out of the queue")
    async def stop(body: OfRun) -> Response:
        return _json(await asyncio.to_thread(_stop, studio, body.run))

    @app.post("/api/run/continue", tags=["runs"], summary="Continue a run that has stopped or died", status_code=201)
    async def continue_(body: OfRun) -> Response:
        folder, job = await asyncio.to_thread(runs.find, body.run)
        words = continue_words(studio, body.run, folder, job)
        return _json(await asyncio.to_thread(_start, studio, body.run, words, again=True), 201)

    @app.delete("/api/run", tags=["runs"], summary="Delete a run and all its files")
    async def delete(run: NameQuery) -> Response:
        await asyncio.to_thread(runs.delete, run)
        return _json({"deleted": run})

    @app.get("/api/queue", tags=["runs"], summary="How many runs may work at the same time")
    async def queue() -> Response:
        return _json({"at_once": at_once(studio.workspace.folder)})

    @app.put("/api/queue", tags=["runs"], summary="Set how many runs may work at the same time")
    async def set_queue(body: QueueSize) -> Response:
        set_at_once(studio.workspace.folder, body.at_once)
        return _json({"at_once": body.at_once})


def _add_look_calls(app: FastAPI, studio: Studio) -> None:
    runs = studio.runs

    @app.get("/api/runs", tags=["runs"], summary="List the runs with state and figures, the latest first")
    async def list_() -> Response:
        return _json({"runs": await asyncio.to_thread(runs.rows)})

    @app.get("/api/run", tags=["runs"], summary="A run: state, curves, validations, samples, answers, scorecard")
    async def picture(run: NameQuery) -> Response:
        return _json(await asyncio.to_thread(_picture, studio, run))

    @app.get("/api/run/scorecard", tags=["results"], summary="The scorecard in the words and digits of the report")
    async def scorecard(run: NameQuery, lang: Language = "en") -> Response:
        return _json(await asyncio.to_thread(scorecard_tables, runs.folder(run), lang))

    @app.get("/api/run/answers", tags=["results"], summary="Answers of base and tuned model, filtered, in pages")
    async def answers(
        run: NameQuery, verdict: Filter = "all", kind: Annotated[str, Query(max_length=200)] = "",
        text: Annotated[str, Query(max_length=MAX_QUERY)] = "", first: Annotated[int, Query(ge=0, le=10**9)] = 0,
        rows: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    ) -> Response:  # fmt: skip
        folder = runs.folder(run)
        page = studio.answers.page
        return _json(await asyncio.to_thread(page, folder, Selection(verdict, kind, text), first, rows))

    @app.get("/api/compare", tags=["results"], summary="Settings, curves and figures of several runs")
    async def compare(run: Annotated[list[NameQuery], Query(min_length=2, max_length=MAX_COMPARED)]) -> Response:
        return _json(await asyncio.to_thread(_side_by_side, studio, run))

    @app.get("/api/compare/answers", tags=["results"], summary="Paired comparison of the answers of two runs")
    async def paired(a: NameQuery, b: NameQuery) -> Response:
        folders = [runs.folder(name) for name in (a, b)]
        found = await compare_runs(studio.workspace.folder, *folders)
        return _json({**found, "command": shlex.join(["lotune", "compare", f"runs/{a}", f"runs/{b}"])})


def _add_result_calls(app: FastAPI, studio: Studio) -> None:
    runs = studio.runs

    @app.post("/api/run/bundle", tags=["results"], summary="Make the hand-in of a run", status_code=202)
    async def bundle(body: Bundle) -> Response:
        folder = runs.folder(body.run)
        return _json(_make(studio, "bundle", body.run, ["bundle", _shown(studio, folder), "--team", body.team]), 202)

    @app.post("/api/run/export", tags=["results"], summary="Write the tuned model as a GGUF file", status_code=202)
    async def export(body: OfRun) -> Response:
        words = ["export", "gguf", _shown(studio, runs.folder(body.run)), "--overwrite"]
        return _json(_make(studio, "gguf", body.run, words), 202)

    @app.get("/api/run/file", tags=["results"], summary="Download a file of a run, its bundle or its exported model",
             response_class=FileResponse)  # fmt: skip
    async def file(run: NameQuery, name: NameQuery) -> Response:
        path = _download(studio, run, name)
        # Always as a file to keep, whatever its name: nothing of a run is shown as a page from here.
        return FileResponse(path, media_type="application/octet-stream", filename=f"{run}-{path.name}")

    @app.get("/api/run/question", tags=["results"], summary="The fields of a question to the models of a run")
    async def fields(run: NameQuery) -> Response:
        runs.folder(run)
        return _json({"fields": await studio.readers.ask("fields", run=run)})

    @app.post("/api/run/question", tags=["results"], summary="The prompt of a question, as the task of a run asks it")
    async def question(body: Question) -> Response:
        runs.folder(body.run)
        return _json(await studio.readers.ask("prompt", run=body.run, values=body.values))

    @app.post("/api/run/talk", tags=["results"], summary="Load base and tuned model, to talk to them")
    async def talk(body: OfRun) -> Response:
        await studio.talk.open(body.run, runs.folder(body.run))
        return _json({"address": f"/talk/{quote(body.run)}"})

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
    state = studio.runs.state(name)
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
        "task_name": _task_name(folder), "started": job.created if job is not None else None,
    }  # fmt: skip


def _commands(name: str) -> list[str]:
    """Return what can be done with a run in the terminal."""
    run = f"{RUNS}/{name}"
    words = (["watch", run], ["report", run], ["serve", run, "--ui"], ["bundle", run, "--team", name],
             ["export", "gguf", run])  # fmt: skip
    return [shlex.join(["lotune", *one]) for one in words]


def _task_name(folder: Path | None) -> str | None:
    """Return the name of a run's task, from the settings that it has stored."""
    if folder is None or not (folder / "recipe.yaml").is_file():
        return None
    inside = False
    for line in (folder / "recipe.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            inside = line.rstrip() == "task:"
        elif inside and line.startswith("  name: "):
            return line.removeprefix("  name: ").strip()
    return None


def _side_by_side(studio: Studio, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings that differ, and curves and figures of each run."""
    folders = [studio.runs.folder(name) for name in names]
    settings = [flatten(read_yaml(folder / "recipe.yaml")) for folder in folders]
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if key not in ("name", "runs")]
    differing = {key: [one.get(key) for one in settings] for key in keys}
    differing = {key: values for key, values in differing.items() if any(value != values[0] for value in values)}
    figures = {row["name"]: row for row in studio.runs.rows()}
    pictures = [studio.live.picture(folder, None) for folder in folders]
    return {
        "runs": [
            {"figures": figures[name], "loss": seen["loss"], "validations": seen["validations"], "gate": seen["gate"]}
            for name, seen in zip(names, pictures, strict=True)
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
        path = folder / RUN_FILES[name]
    else:
        raise not_found(name)
    if not path.is_file() or not studio.workspace.contains(path):
        raise not_found(f"{name} of {run}")
    return path


def _shown(studio: Studio, path: Path) -> str:
    """Return a path as it is named from the studio's folder."""
    return path.relative_to(studio.workspace.folder).as_posix()
