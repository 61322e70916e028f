"""The command `lotune generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, model_of_run, recipe_from_options, run_options, run_verb
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
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change.")] = None,
    model: Annotated[str, typer.Option(help="Model: a folder, that of a run, a name on the hub, or nano.")] = "nano",
    base: BaseModel = None,
    task: Annotated[str | None, typer.Option(help="Task of the rows, such as arithmetic or choice.")] = None,
    data: Annotated[Path | None, typer.Option(help="Input file; reference answers are not needed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output file, .jsonl or .txt, in the order of the input.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this prompt instead of a file.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of answers to sample for --prompt.")] = 1,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing output file.")] = False,
    force_template: ForceTemplate = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer one prompt, or each row of a file in order."""
    data, out = expand_user(data), expand_user(out)

    # Imported inside the command, so that --help and errors of options do not wait for torch.
    def work() -> Any:
        from lotune.generate.sampling import sampling_from_options
        from lotune.stages import generate
        from lotune.tasks.registry import CONVERSATION_TASK

        options, named = run_options(dry_run, json, debug), model_of_run(model)
        sampling = sampling_from_options(temperature, top_k, top_p, repetition_penalty, seed)
        if prompt is not None:
            if data is not None or out is not None:
                raise SettingsError("generate", "--prompt together with --data or --out", remedy="give one of them")
            recipe = recipe_from_options("generate", task or CONVERSATION_TASK, overrides or [], base)
            return generate.generate_text(recipe, named, prompt, sampling, samples, force_template, options)
        # A file of rows has one line of answer for each; several would break tools that pair the lines.
        if samples > 1:
            raise SettingsError("--samples", "with --data, each row gets one answer", "1", "remove it, or use --prompt")
        if data is None or out is None:
            raise SettingsError("generate", "no input", "--task, --data and --out, or --prompt")
        recipe = recipe_from_options("generate", task, overrides or [], base)
        return generate.generate_answers(recipe, named, data, out, sampling, force_template, options, overwrite=force)

    run_verb(work, json=json, debug=debug, resumes=out is not None)
