"""The command `lotune serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, model_of_run, models_of_run, recipe_from_options, run_verb
from lotune.cli.options import Debug
from lotune.errors import SettingsError


def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [key=value]...", help="Run whose base and tuned model to serve, and settings."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to serve, [NAME=]MODEL: a folder (model or run), a name on the hub, or nano."),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Adapter to serve beside its base: NAME=FOLDER, or FOLDER.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every address of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys: a line is NAME KEY [REQUESTS_PER_MINUTE].")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name under which this server may be asked, such as that of a proxy.")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="Site whose pages may ask, such as https://example.org.")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Serve pages, too: chat, comparison, runs, API.")] = False,
    remote: Annotated[
        list[str] | None,
        typer.Option(help="Model of another server for the pages: NAME=URL[#MODEL], or NAME=URL/generate."),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder whose runs the pages list.")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="Example questions of the pages, a csv file. Default: examples.csv, if it is there."),
    ] = None,
    flags: Annotated[
        Path | None, typer.Option(help="File for answers that are flagged on the pages. Default: flagged.jsonl.")
    ] = None,
    arena: Annotated[
        Path | None, typer.Option(help="File of votes for blind battles on the pages; it is made if it is missing.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.001, help="GiB that all weights may take. Default: most of the free memory.")
    ] = None,
    quantize: Annotated[str, typer.Option(help="int8: multiply in 8 bits on a CPU, where that is faster.")] = "none",
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused with 429.")] = 256,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Longest prompt in tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which an answer ends, waiting included.")] = 600,
    debug: Debug = False,
) -> None:
    """Serve models over HTTP in the form of OpenAI's API. `lotune chat --help` lists the settings."""

    def work() -> None:
        from lotune.serve.limits import Limits
        from lotune.stages.serve import ServeOptions, serve
        from lotune.tasks.registry import CONVERSATION_TASK

        run, overrides = _split(arguments or [])
        models, adapters = models_of_run(run) if run else ({}, {})
        for text in model or ([] if run or adapter else ["nano"]):
            _add(models, text, "--model", (models, adapters))
        for text in adapter or []:
            _add(adapters, text, "--adapter", (models, adapters))
        remotes: dict[str, str] = {}
        for text in remote or []:
            name, _, address = text.partition("=")
            if name in (*models, *adapters, *remotes) or not address:
                raise SettingsError("--remote", f"{text} has no name of its own", "NAME=URL")
            remotes[name] = address
        recipe = recipe_from_options("serve", CONVERSATION_TASK, [*overrides, f"evaluate.quantize={quantize}"])
        limits = Limits(max_waiting, max_prompt_tokens, max_new_tokens, request_seconds=timeout)
        files: dict[str, Any] = {
            "runs": expand_user(runs),
            "examples": expand_user(examples),
            "flags": expand_user(flags),
            "votes": expand_user(arena),
        }
        memory_bytes = int(memory * 2**30) if memory else None
        options = ServeOptions(host, port, expand_user(keys), allow_host or (), cors or (), memory_bytes, ui, **files)
        serve(recipe, models, adapters, remotes, limits, options)

    run_verb(work, json=False, debug=debug)


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the run, if one is given, and the settings."""
    runs = [word for word in arguments if "=" not in word]
    if len(runs) > 1:
        raise SettingsError("serve", f"{len(runs)} runs are given", "one, or --model for each")
    return (runs[0] if runs else None), [word for word in arguments if "=" in word]


def _add(target: dict[str, str], text: str, option: str, given: tuple[dict[str, str], ...]) -> None:
    """Add [NAME=]SOURCE to models or adapters by name. Raises: SettingsError for a name that is taken."""
    name, separator, source = text.partition("=")
    if not separator or "/" in name:  # a folder may have = in its name
        name, source = "", text
    name = name or Path(source).name or source
    if any(name in names for names in given):
        raise SettingsError(option, f"two models are called {name}", "names that differ", f"{option} NAME={source}")
    target[name] = model_of_run(source)
