"""The command `lotune init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json
from lotune.errors import SettingsError


def init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE|FOLDER", help="Training rows: a file, or a folder of files.")
    ] = None,
    copied: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Copy a recipe of lotune instead; `lotune run --list` lists them."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task of the rows. Default: recognised from columns and cells.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Column with a role, such as label=department or question=title and answer=body. Repeatable.",
        ),
    ] = None,
    base: Annotated[str, typer.Option(help="Base model: a name on the Hugging Face hub, or a local folder.")] = "nano",
    out: Annotated[
        Path | None, typer.Option(help="Recipe to write. Default: FILE with the suffix .yaml, in the current folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a first recipe for a data file, or copy one (--from).

    Recognise the task from the rows, print each decision with what changes it, and show three rows as the model will
    see them.
    """

    def work() -> Any:
        if copied is not None and file is None:
            from lotune.stages.copy_recipe import copy_recipe

            return copy_recipe(copied, out, force)
        if file is None or copied is not None:
            raise SettingsError("init", "no rows" if file is None else "rows and --from", "FILE or --from NAME")
        from lotune.stages.init import init
        from lotune.tasks.candidates import Wanted

        wanted = Wanted(task, _columns_by_role(column or []))
        return init(file, out, force, run_options(False, json, debug), wanted, base)

    run_verb(work, json=json, debug=debug)


def _columns_by_role(words: list[str]) -> dict[str, str]:
    """Return the columns of `ROLE=NAME` by role. Raises: SettingsError for a word of another form, or a role twice."""
    columns: dict[str, str] = {}
    for word in words:
        role, _, name = word.partition("=")
        role, name = role.strip(), name.strip()
        if not role or not name or role in columns:
            raise SettingsError("--column", f"cannot read {word!r}", "ROLE=NAME, each role once, as in label=stars")
        columns[role] = name
    return columns
