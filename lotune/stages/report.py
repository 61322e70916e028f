"""`lotune report`: write report and logs from the folder of a finished run or pre-training, without importing torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from lotune.console import print_status
from lotune.errors import CheckError, RunError, SettingsError
from lotune.files import write_atomically
from lotune.recipe import Recipe, RunOptions, read_recipe
from lotune.report.html import render_page
from lotune.report.languages import Language
from lotune.report.markdown import render_markdown
from lotune.report.report_data import Setting, collect_report, needed_files
from lotune.runs import Run
from lotune.settings import flatten
from lotune.settings_help import describe
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.dependencies import stage_inputs
from lotune.stages.invalidation import STAGE_ORDER
from lotune.stages.run_logs import write_logs


def report(target: Path, overrides: Sequence[str], options: RunOptions) -> dict[str, Any]:
    """Write the report of a run, given by its folder or recipe, and return the paths.

    Raises: RunError if the run is not finished; SettingsError for overrides of a folder.
    """
    if not target.is_dir():
        recipe = read_recipe(target, overrides)
        if _is_pretraining(recipe.folder):
            return write_pretraining_report(recipe.folder)
        finish = shlex.join(["lotune", "run", str(target), *overrides])
        return write_report(recipe.folder, finish, options.language)
    if overrides:
        raise SettingsError("report", f"settings with a run folder: {' '.join(overrides)}", "a run folder alone")
    if _is_pretraining(target):
        return write_pretraining_report(target)
    return write_report(target, shlex.join(["lotune", "run", str(target / "recipe.yaml")]), options.language)


def _is_pretraining(folder: Path) -> bool:
    return (folder / "pretraining.json").is_file() and not (folder / "scorecard.json").is_file()


def write_pretraining_report(folder: Path) -> dict[str, Any]:
    """Write report.html and report.md into the run folder of a finished pre-training, and return their paths.

    Raises: RunError if a file of the folder is missing or damaged.
    """
    from lotune.report.pretraining import collect_pretraining, render_pretraining_markdown, render_pretraining_page

    recipe = read_recipe(folder / "recipe.yaml")
    name = recipe.name or folder.name
    again = shlex.join(["lotune", "pretrain", str(folder / "recipe.yaml"), f"name={name}-again"])
    contents = collect_pretraining(folder, name, changed_settings(recipe), again)
    pages = {"html": folder / "report.html", "markdown": folder / "report.md"}
    write_atomically(pages["html"], render_pretraining_page(contents))
    write_atomically(pages["markdown"], render_pretraining_markdown(contents))
    print_status(f"report: {pages['html']} and {pages['markdown'].name}")
    return {form: str(path) for form, path in pages.items()}


def write_report(folder: Path, finish: str, language: Language = "en") -> dict[str, Any]:
    """Write report.html, report.md and the logs into a run folder; `finish` is the command that finishes the run.

    The reports list files that have changed since the run wrote them.
    Raises: RunError if the run is not finished or was tested with other settings; CheckError, after writing all, if
    files have changed.
    """
    recipe = _finished_recipe(folder, finish)
    altered = _altered(folder)
    name = recipe.name or folder.name
    again = shlex.join(["lotune", "run", str(folder / "recipe.yaml"), f"name={name}-again"])
    contents = replace(collect_report(folder, name, changed_settings(recipe), again), altered=altered)
    pages = {"html": folder / "report.html", "markdown": folder / "report.md"}
    write_atomically(pages["html"], render_page(contents, language))
    write_atomically(pages["markdown"], render_markdown(contents, language))
    write_logs(folder, recipe)
    print_status(f"report: {pages['html']} and {pages['markdown'].name}")
    # After the report is written, as it names the changed files for whoever investigates.
    if altered:
        expected = "the files as the run wrote them"
        raise CheckError(str(folder), f"has changed since it was finished: {'; '.join(altered)}", expected, finish)
    return {**{form: str(path) for form, path in pages.items()}, "valid": contents.card.valid}


def _altered(folder: Path) -> tuple[str, ...]:
    """Return the changed files of a run, such as "scorecard.json: content changed".

    Weights do not count: they may be deleted after the test.
    """
    changes = Run(folder).altered(STAGE_ORDER)
    return tuple(f"{path}: {text}" for path, text in sorted(changes.items()) if not path.startswith("checkpoints/"))


def _finished_recipe(folder: Path, finish: str) -> Recipe:
    """Return the recipe of a run whose stages are all done with exactly its settings, or raise RunError."""
    if not (folder / "recipe.yaml").is_file():
        raise RunError(str(folder), "holds no run: recipe.yaml is missing", "the folder of a finished run", finish)
    recipe = read_recipe(folder / "recipe.yaml")
    missing = needed_files(folder)
    if missing:
        raise RunError(str(folder), f"is not finished: {', '.join(missing)} missing", "a finished run", finish)
    done = Run(folder).stages()
    unfinished = [stage for stage in STAGE_ORDER if stage not in done]
    if unfinished:
        raise RunError(str(folder), f"is not finished: {', '.join(unfinished)} not done", "a finished run", finish)
    # The recipe may have been edited after the test. A setting that its record lacks counts as unchanged.
    tested, now = done["evaluate"]["inputs"], stage_inputs(with_stored_settings(recipe, folder), "evaluate")
    changes = [
        f"{key}: {_json(tested[key])} -> {_json(value)}"
        for key, value in now.items()
        if not isinstance(value, Path) and tested.get(key, value) != value
    ]
    if changes:
        raise RunError(str(folder), f"was tested with other settings: {'; '.join(changes)}", "a finished run", finish)
    return recipe


def changed_settings(recipe: Recipe) -> list[Setting]:
    """Return the settings of a recipe that differ from their defaults.

    >>> [(setting.key, setting.value, setting.default) for setting in changed_settings(Recipe(seed=3))]
    [('seed', '3', '0')]
    """
    defaults, sentences = flatten(Recipe()), {line.key: line.sentence for line in describe(Recipe)}
    return [
        Setting(key, _json(value), _json(defaults.get(key)), sentences.get(key, ""))
        for key, value in flatten(recipe).items()
        if key not in defaults or defaults[key] != value
    ]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
