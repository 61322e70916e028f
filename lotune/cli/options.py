"""Options that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings that override the recipe's.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Stop after the checks and the estimates.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
ForceTemplate = Annotated[
    bool, typer.Option("--force-template", help="Ask in the task's template, even if the model was tuned in another.")
]
BaseModel = Annotated[
    str | None, typer.Option("--base", help="Base of an adapter. Default: the one that the adapter names.")
]
Temperature = Annotated[float, typer.Option(help="0: always the most likely token; above 0: draw at random.")]
TopK = Annotated[int | None, typer.Option(help="Draw from this many of the most likely tokens.")]
TopP = Annotated[float, typer.Option(help="Draw from the most likely tokens with this total probability.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: tokens that occurred already become less likely.")]
Seed = Annotated[int, typer.Option(help="The same seed draws the same answers.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
