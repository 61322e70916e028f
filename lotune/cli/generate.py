"""The verb `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, recipe_from_options, run_options, run_verb
from lotune.cli.options import (
    BaseModel,
    Debug,
    DryRun,
    ForceTemplate,
    Json,
    RepetitionPenalty,
    Seed,
    Temperature,
    TopK,
    TopP,
)
from lotune.errors import SettingsError


def generate(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings.")] = None,
    model: Annotated[str, typer.Option(help="The model that answers: a folder, a hub name, or nano.")] = "nano",
    base: BaseModel = None,
    task: Annotated[str | None, typer.Option(help="Task of the rows, such as arithmetic or choice.")] = None,
    data: Annotated[Path | None, typer.Option(help="Rows to answer; they need no correct answers.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the answers in the rows' order: .jsonl, or .txt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this text instead of a file.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Draw this many answers to --prompt.")] = 1,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file of answers.")] = False,
    force_template: ForceTemplate = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer each row of a file, in its order, or one prompt."""
    data, out = expand_user(data), expand_user(out)

    def work() -> Any:
        from lotune.generate.sampling import sampling_from_options
        from lotune.stages import generate

        options = run_options(dry_run, json, debug)
        sampling = sampling_from_options(temperature, top_k, top_p, repetition_penalty, seed)
        if prompt is not None:
            if data is not None or out is not None:
                raise SettingsError("generate", "--prompt beside --data or --out", remedy="give one of the two")
            recipe = recipe_from_options("generate", task or "instructions", overrides or [], base)
            return generate.generate_text(recipe, model, prompt, sampling, samples, force_template, options)
        if samples > 1:
            raise SettingsError("--samples", "a row has one answer", "1 with --data", "leave it out, or give --prompt")
        if data is None or out is None:
            raise SettingsError("generate", "nothing to answer", "--task, --data and --out, or --prompt")
        recipe = recipe_from_options("generate", task, overrides or [], base)
        return generate.generate_answers(recipe, model, data, out, sampling, force_template, options, overwrite=force)

    run_verb(work, json=json, debug=debug, goes_on=out is not None)
