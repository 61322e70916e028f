"""The command `lotune study memorization`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import recipe_with_threads, run_options, run_verb
from lotune.cli.options import RECIPE_HELP, Debug, Json, Overrides
from lotune.errors import SettingsError

study = typer.Typer(help="Study what a tuning does to a model.", rich_markup_mode=None, no_args_is_help=True)


@study.callback()
def _study() -> None:
    """Keep the name of the only command in the command line."""


@study.command()
def memorization(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)],
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each part: seen in the training, and of the test.")] = 200,
    temperatures: Annotated[
        str, typer.Option(help="Temperatures of the answers, separated by commas; 0 is greedy.")
    ] = "0,0.5,1",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask the checkpoints of a recipe questions that they have seen, and others, at several temperatures."""

    def work() -> Any:
        from lotune.stages.memorization import StudyOptions, study_memorization

        study = StudyOptions(rows, _read_temperatures(temperatures))
        return study_memorization(recipe_with_threads(recipe, overrides), study, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug, resumes=True)


def _read_temperatures(text: str) -> list[float]:
    """Return the temperatures in a text. Raises: SettingsError if one is no number.

    >>> _read_temperatures("0, 0.5,1")
    [0.0, 0.5, 1.0]
    """
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        expected = "numbers of 0 or more, separated by commas"
        raise SettingsError("--temperatures", f"{text!r}", expected, "0,0.5,1") from None
