"""The command `lotune convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, run_options, run_verb
from lotune.cli.options import Debug, Json


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder of the model to convert.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder, or recipe, to write.")],
    layout: Annotated[
        str | None,
        typer.Option(help="Layout: internlm, meta, llama2c, nanogpt, mindformers or huggingface."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File or folder of its tokeniser. Default: beside the model.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a model from the layout that it was published in.

    The new folder is in Hugging Face's layout, which base.model and --model read.
    """

    def work() -> Any:
        from lotune.stages.convert import convert

        return convert(source, target, layout, expand_user(tokenizer), run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
