"""Carrying out a verb: its recipe or settings, its result, and the exit status of what it raises."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lotune.errors import SettingsError
from lotune.library_errors import check_words, translate_error
from lotune.text_display import print_visible

if TYPE_CHECKING:
    from lotune.recipe import Recipe, RunOptions


def run_options(dry_run: bool, json: bool, debug: bool) -> RunOptions:
    """Return how a verb is carried out, as a stage takes it."""
    from lotune.recipe import RunOptions

    return RunOptions(dry_run=dry_run, json=json, debug=debug)


def run_verb(work: Callable[[], Any], *, json: bool, debug: bool, goes_on: bool = False) -> None:
    """Do the work of a verb and print its result where it is to be JSON; what it raises becomes an exit status.

    `goes_on`: where it is interrupted, the same command goes on from what is written by then.
    """
    from contextlib import nullcontext, redirect_stdout

    try:
        with redirect_stdout(sys.stderr) if json else nullcontext():
            check_words(sys.argv)
            result = work()
    except Exception as error:
        found = translate_error(error)
        if debug or found is None:
            raise
        print_visible(found, file=sys.stderr)
        raise typer.Exit(found.exit_status) from None
    except KeyboardInterrupt:
        more = f" The same command goes on from here: {shlex.join(['lotune', *sys.argv[1:]])}" if goes_on else ""
        print_visible(f"\nInterrupted.{more}", file=sys.stderr)
        raise typer.Exit(130) from None
    if json and result is not None:  # of several processes one has a result
        from lotune.settings import as_json

        print(as_json(result))


def run_recipe_verb(verb: str, path: Path, overrides: list[str] | None, dry_run: bool, json: bool, debug: bool) -> None:
    """Carry out the stage of a verb that takes a recipe; under torchrun together with the other processes."""

    def work() -> Any:
        from lotune.recipe import read_recipe

        recipe = read_recipe(path, overrides or [])
        _use_threads(recipe)
        stage: Callable[[Recipe, RunOptions], Any] = getattr(import_module(f"lotune.stages.{verb}"), verb)
        options = run_options(dry_run, json, debug)
        from lotune.distributed import world_size

        if world_size() > 1:
            from lotune.stages.distributed_run import run_distributed

            return run_distributed(stage, recipe, options)
        return stage(recipe, options)

    run_verb(work, json=json, debug=debug, goes_on=True)


def recipe_from_options(verb: str, task: str | None, overrides: list[str], base: str | None = None) -> Recipe:
    """The settings of a verb that takes a model, perhaps with its base, and a task.

    Raises: SettingsError without a task, for one that there is not, or for a recipe.
    """
    if any("=" not in word for word in overrides):
        raise SettingsError(verb, "a recipe beside --model", remedy="give one of the two")
    if task is None:
        raise SettingsError(verb, "--model without --task", "--task arithmetic, reading, choice, …")
    from lotune.recipe import Recipe
    from lotune.settings import read_settings
    from lotune.tasks.registry import entry_named

    entry_named(task)  # refuses what is no task of questions and answers, and names what is near
    named = [] if base is None else [f"base.model={base}"]
    recipe = read_settings(Recipe, None, [*overrides, f"task.name={task}", *named])
    _use_threads(recipe)
    return recipe


def _use_threads(recipe: Recipe) -> None:
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)


def expand_user(path: Path | None) -> Path | None:
    """A path whose ~ the shell has left, as in --out=~/file, with the home folder in its place."""
    try:
        return None if path is None else path.expanduser()
    except RuntimeError:  # of nobody
        return path
