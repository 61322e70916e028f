"""The commands `lotune export ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lotune.cli.execution import expand_user, model_of_run, recipe_from_options, run_verb
from lotune.cli.options import Debug, Json

export = typer.Typer(no_args_is_help=True, help="Write a model in the format of another program.")


@export.callback()
def _export() -> None:
    """Write a model in the format of another program."""


@export.command()
def gguf(
    model: Annotated[str, typer.Argument(help="Model: a folder (model or run), a name on the hub, or nano.")],
    out: Annotated[Path | None, typer.Option(help="File to write. Default: the model's name, with .gguf.")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Number format of the matrices.")
    ] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a Llama-shaped model as a GGUF file, for llama.cpp and Ollama."""

    def work() -> object:
        from lotune.stages.export import export_gguf
        from lotune.tasks.registry import CONVERSATION_TASK

        recipe = recipe_from_options("export", CONVERSATION_TASK, [])
        folder = expand_user(Path(model)) or Path(model)
        name = folder.resolve().name if folder.is_dir() else folder.name
        return export_gguf(recipe, model_of_run(model), name, expand_user(out), dtype, overwrite)

    run_verb(work, json=json, debug=debug)
