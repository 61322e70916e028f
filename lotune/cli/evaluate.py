"""The command `lotune evaluate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lotune.cli.execution import expand_user, model_of_run, recipe_from_options, run_options, run_recipe_verb, run_verb
from lotune.cli.options import BaseModel, Debug, DryRun, ForceTemplate, Json, Lang, Server
from lotune.errors import SettingsError

if TYPE_CHECKING:
    from lotune.recipe import RunOptions


def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [key=value]...", help="Recipe of the run to evaluate, and settings to change."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Evaluate one model: a folder (model, adapter or run), a name on the hub, or nano."),
    ] = None,
    server: Server = None,
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
    lang: Lang = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate the models of a run, or one model (--model)."""
    recipe_file, *overrides = arguments or [""]
    if model is None and server is None:
        model_options = {
            "--task": task, "--data": data, "--limit": limit, "--shots": shots or None, "--shots-data": shots_data,
            "--out": out, "--base": base,
        }  # fmt: skip
        run_verb(lambda: _require_recipe(recipe_file, model_options), json=False, debug=debug)
        run_recipe_verb("evaluate", Path(recipe_file), overrides, dry_run, json, debug, lang)
    else:
        rows = {"data": expand_user(data), "limit": limit, "shots": shots, "shots_data": expand_user(shots_data)}
        options = run_options(dry_run, json, debug)
        work = partial(
            _evaluate_model, model, server, task, base, list(arguments or []), rows, expand_user(out), force_template
        )
        run_verb(lambda: work(options), json=json, debug=debug, resumes=out is not None)


def _evaluate_model(
    model: str | None,
    server: str | None,
    task: str | None,
    base: str | None,
    overrides: list[str],
    rows: dict[str, Any],
    out: Path | None,
    force_template: bool,
    options: RunOptions,
) -> Any:
    """Return the figures of one model on a task, or on articles; `rows` are the fields of EvaluationData."""
    from lotune.tasks.registry import DEFAULT_TASK, TEXT

    if server is not None:
        return _evaluate_server(server, model or "", task, base, overrides, rows, out, options)
    assert model is not None
    model = model_of_run(model)

    # Perplexity needs no task, but a recipe cannot be built without one.
    recipe = recipe_from_options("evaluate", DEFAULT_TASK if task == TEXT else task, overrides, base)
    if task == TEXT:
        if rows["shots"]:
            raise SettingsError("--shots", "--task text takes no few-shot examples", remedy="remove it")
        from lotune.stages.evaluate_perplexity import evaluate_texts

        return evaluate_texts(recipe, model, rows["data"], rows["limit"], out, options)
    from lotune.stages.evaluate_model import EvaluationData, evaluate_model

    return evaluate_model(recipe, model, EvaluationData(**rows), out, force_template, options)


def _evaluate_server(
    server: str,
    model: str,
    task: str | None,
    base: str | None,
    overrides: list[str],
    rows: dict[str, Any],
    out: Path | None,
    options: RunOptions,
) -> Any:
    from lotune.stages.evaluate_model import EvaluationData
    from lotune.stages.evaluate_server import evaluate_server
    from lotune.tasks.registry import TEXT

    if task == TEXT:
        raise SettingsError("--server", "a server does not measure articles", "another task", "--model FOLDER")
    if base is not None:
        raise SettingsError("--base", "a server has its models already", remedy="remove it")
    recipe = recipe_from_options("evaluate", task, overrides)
    return evaluate_server(recipe, server, model, EvaluationData(**rows), out, options)


def _require_recipe(recipe_file: str, model_options: dict[str, Any]) -> None:
    """Raise SettingsError if there is no recipe, or an option that only --model takes."""
    given = [name for name, value in model_options.items() if value is not None]
    if given:
        raise SettingsError("evaluate", f"{', '.join(given)} without --model", remedy="add --model")
    if not recipe_file or "=" in recipe_file:
        raise SettingsError("evaluate", "no recipe and no --model", "RECIPE.yaml, or --model FOLDER --task NAME")
