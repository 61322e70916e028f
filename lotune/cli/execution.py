"""Run a command: read its settings, print its result, turn errors into an exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lotune.errors import CheckError, SettingsError
from lotune.library_errors import check_arguments, translate_error
from lotune.text_display import print_visible

if TYPE_CHECKING:
    from lotune.recipe import Recipe, RunOptions


def run_options(dry_run: bool, json: bool, debug: bool, lang: str | None = None) -> RunOptions:
    """Return the options of a command as stages take them; without `lang`, the language is that of the locale."""
    from lotune.recipe import RunOptions
    from lotune.report.languages import LANGUAGES, language_of_locale

    language = next((one for one in LANGUAGES if one == lang), language_of_locale())
    return RunOptions(dry_run=dry_run, json=json, debug=debug, language=language)


def run_verb(work: Callable[[], Any], *, json: bool, debug: bool, resumes: bool = False) -> None:
    """Do the work of a command, print its result under --json, and turn its errors into an exit status.

    `resumes` says that the same command can resume an interrupted run.
    """
    from contextlib import nullcontext, redirect_stdout

    try:
        # Libraries print, too; under --json stdout must hold the result alone.
        with redirect_stdout(sys.stderr) if json else nullcontext():
            check_arguments(sys.argv)
            result = work()
    except Exception as error:
        own_error = translate_error(error)
        if debug or own_error is None:
            raise
        print_visible(own_error, file=sys.stderr)
        if isinstance(own_error, CheckError):
            _print_result(own_error.result, json)
        raise typer.Exit(own_error.exit_status) from None
    except KeyboardInterrupt:
        hint = f" Resume with: {shlex.join(['lotune', *sys.argv[1:]])}" if resumes else ""
        print_visible(f"\nInterrupted.{hint}", file=sys.stderr)
        raise typer.Exit(130) from None  # 128 + SIGINT, as in a shell
    _print_result(result, json)


def _print_result(result: Any, json: bool) -> None:
    if json and result is not None:  # only the main process has a result
        from lotune.settings import as_json

        print(as_json(result))


def run_recipe_verb(
    verb: str, path: Path, overrides: list[str] | None, dry_run: bool, json: bool, debug: bool, lang: str | None = None
) -> None:
    """Run the stage of a command that takes a recipe, together with the other processes under torchrun."""

    def work() -> Any:
        recipe = recipe_with_threads(path, overrides)
        # By name, so that a command imports its own stage alone; `import_module` of all would load torch for --help.
        stage: Callable[[Recipe, RunOptions], Any] = getattr(import_module(f"lotune.stages.{verb}"), verb)
        options = run_options(dry_run, json, debug, lang)
        from lotune.distributed import world_size

        if world_size() > 1:
            from lotune.stages.distributed_run import run_distributed

            return run_distributed(stage, recipe, options)
        return stage(recipe, options)

    run_verb(work, json=json, debug=debug, resumes=True)


def recipe_with_threads(path: Path, overrides: list[str] | None) -> Recipe:
    """Return the recipe of a command, after setting the number of threads that it names."""
    from lotune.recipe import read_recipe

    recipe = read_recipe(path, overrides or [])
    _use_threads(recipe)
    return recipe


def recipe_from_options(verb: str, task: str | None, overrides: list[str], base: str | None = None) -> Recipe:
    """Return the settings of a command that takes a model, a task and perhaps the base of an adapter.

    Raises: SettingsError if the task is missing or unknown, or if a recipe is given.
    """
    if any("=" not in word for word in overrides):
        raise SettingsError(verb, "a recipe together with --model", remedy="give one of them")
    if task is None:
        raise SettingsError(verb, "--model without --task", "a task, such as --task arithmetic")
    from lotune.recipe import Recipe
    from lotune.settings import read_settings
    from lotune.tasks.registry import entry_named

    entry_named(task)  # raises an error with the closest name
    base_override = [] if base is None else [f"base.model={base}"]
    # Options come last, so that they win over an override of the same setting.
    recipe = read_settings(Recipe, None, [*overrides, f"task.name={task}", *base_override])
    _use_threads(recipe)
    return recipe


def _use_threads(recipe: Recipe) -> None:
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)


def model_of_run(model: str) -> str:
    """Return the folder of the model that the folder of a run stands for; any other name of a model as it is.

    It is the chosen checkpoint of a tuning, merged if it is, or the best model of a pre-training.

    Raises: RunError for a run that is not finished.
    """
    folder = expand_user(Path(model)) or Path(model)
    if not _is_run(folder):
        return model
    if (folder / "pretraining.json").is_file():
        from lotune.model.loading import pretrained_model

        return str(pretrained_model(folder))
    checkpoint = _chosen_checkpoint(folder)
    return str(checkpoint / ("merged" if (checkpoint / "merged").is_dir() else "adapter"))


def models_of_run(run: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the models of a run by name, and its adapters: base and tuned model, or what was pre-trained.

    Raises: RunError for a folder that is no run, or a run that is not finished.
    """
    from lotune.errors import RunError
    from lotune.settings import read_yaml

    folder = expand_user(Path(run)) or Path(run)
    if not _is_run(folder):
        raise RunError(run, "is not a run", "the folder of a run", f"--model {shlex.quote(run)} serves a model")
    name = folder.resolve().name
    if (folder / "pretraining.json").is_file():
        from lotune.model.loading import pretrained_model

        return {name: str(pretrained_model(folder))}, {}
    adapter, settings = _chosen_checkpoint(folder) / "adapter", read_yaml(folder / "recipe.yaml")
    base = str(settings.get("base", {}).get("model", "nano"))
    base_name = Path(base).name
    return {f"{base_name}-base" if base_name == name else base_name: base}, {name: str(adapter)}


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file() and not (folder / "config.json").exists()


def _chosen_checkpoint(run: Path) -> Path:
    from lotune.errors import RunError
    from lotune.files import read_json

    if not (run / "tuning.json").is_file():
        finish = shlex.join(["lotune", "run", str(run / "recipe.yaml")])
        raise RunError(str(run), "is a run without a finished training", "a finished run, or a model's folder", finish)
    return run / "checkpoints" / str(read_json(run / "tuning.json")["chosen"])


def expand_user(path: Path | None) -> Path | None:
    """Return a path with a leading ~ expanded, which the shell leaves alone in --out=~/file."""
    try:
        return None if path is None else path.expanduser()
    except RuntimeError:  # an unknown user
        return path
