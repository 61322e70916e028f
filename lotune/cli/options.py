"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

RECIPE_HELP = "Recipe of the run: a YAML file, or a name from `lotune run --list`."
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings that override the recipe.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Stop after the checks and estimates.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, to stdout.")]
ForceTemplate = Annotated[
    bool,
    typer.Option(
        "--force-template",
        help="Use the task's prompt template even if the checkpoint was trained with another.",
    ),
]
BaseModel = Annotated[
    str | None, typer.Option("--base", help="Base model of the adapter. Default: the one in adapter_config.json.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", help="Address of an OpenAI-compatible server that has the model; its key is in LOTUNE_API_KEY."
    ),
]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")]
TopK = Annotated[int | None, typer.Option(help="Sample from the k most likely tokens.")]
TopP = Annotated[
    float,
    typer.Option(help="Nucleus sampling: sample from the smallest set of tokens whose probability reaches this."),
]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Divide the logits of tokens already present by this; 1 is off.")
]
Seed = Annotated[int, typer.Option(help="Random seed for sampling.")]
Lang = Annotated[
    Literal["en", "zh"] | None,
    typer.Option("--lang", help="Language of scorecard and report. Default: that of the locale."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
