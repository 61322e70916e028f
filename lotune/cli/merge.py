"""The command `lotune merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import recipe_from_options, run_options, run_verb
from lotune.cli.options import BaseModel, Debug, Json


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Folder of an adapter in PEFT's format.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder of the merged model.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Settings to change, such as base.dtype=float32."),
    ] = None,
    base: BaseModel = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Merge an adapter into its base, and compare the two.

    The folder is written only if the merged model computes what base and adapter compute.
    """

    def work() -> Any:
        from lotune.stages.merge import merge
        from lotune.tasks.registry import CONVERSATION_TASK

        recipe = recipe_from_options("merge", CONVERSATION_TASK, overrides or [], base)
        return merge(recipe, adapter, out, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
