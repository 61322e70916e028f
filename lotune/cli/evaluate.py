"""The command `lotune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import expand_user, recipe_from_options, run_options, run_recipe_verb, run_verb
from lotune.cli.options import BaseModel, Debug, DryRun, ForceTemplate, Json
from lotune.errors import SettingsError


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE.yaml] [key=value]...", help="Recipe of the run to test, and settings to change."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Test one model: a folder (model or adapter), a name on the Hugging Face hub, or nano."),
    ] = None,
    base: BaseModel = None,
    task: Annotated[
        str | None, typer.Option(help="Task for --model, such as choice; text measures the perplexity of articles.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Test rows for --model. Default: rows that the task generates.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of test rows; without --data, the number to generate.")
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Number of few-shot examples.")] = 0,
    shots_data: Annotated[Path | None, typer.Option(help="File of the few-shot examples.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output file for the predictions of --model (jsonl).")] = None,
    force_template: ForceTemplate = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test base and tuned model of a run, or one model (--model)."""
    first, *others = words or [""]
    if model is None:
        alone = {
            "--task": task, "--data": data, "--limit": limit, "--shots": shots or None, "--shots-data": shots_data,
            "--out": out, "--base": base,
        }  # fmt: skip
        run_verb(lambda: _need_recipe(first, alone), json=False, debug=debug)
        run_recipe_verb("evaluate", Path(first), others, dry_run, json, debug)
    else:
        options, overrides = run_options(dry_run, json, debug), list(words or [])
        data, shots_data, out = expand_user(data), expand_user(shots_data), expand_user(out)

        def work() -> Any:
            from lotune.tasks.registry import DEFAULT_TASK, TEXT

            is_task = task != TEXT  # perplexity of texts needs no task
            recipe = recipe_from_options("evaluate", task if is_task else DEFAULT_TASK, overrides, base)
            if not is_task:
                if shots:
                    raise SettingsError("--shots", "--task text has no questions", remedy="leave it out")
                from lotune.stages.evaluate_perplexity import evaluate_texts

                return evaluate_texts(recipe, model, data, limit, out, options)
            from lotune.stages.evaluate_model import EvaluationData, evaluate_model

            test = EvaluationData(data, limit, shots, shots_data)
            return evaluate_model(recipe, model, test, out, force_template, options)

        run_verb(work, json=json, debug=debug, resumes=out is not None)


def _need_recipe(first: str, alone: dict[str, Any]) -> None:
    """Raise SettingsError if there is no recipe, or an option that only --model takes."""
    given = [name for name, value in alone.items() if value is not None]
    if given:
        raise SettingsError("evaluate", f"{', '.join(given)} without --model", remedy="add --model")
    if not first or "=" in first:
        raise SettingsError("evaluate", "no recipe and no --model", "RECIPE.yaml, or --model FOLDER --task NAME")
