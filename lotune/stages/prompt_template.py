"""A model is asked as it was trained: in the template, and in the words of the task, that its folder holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lotune.console import print_status
from lotune.data.templates import TEMPLATE_FILE, TEMPLATES, load_task_prompt_settings, load_template
from lotune.errors import ModelError
from lotune.model.loading import base_folder
from lotune.model.settings import BaseSettings
from lotune.tasks.settings import PromptSettings, TaskSettings


def with_stored_template(settings: TaskSettings, model: str, force: bool) -> TaskSettings:
    """The settings of a task with the prompt template that a model's folder holds, where they do not name one.

    The reading task has a prompt of its own and stays as it is; so does everything with `force`. Where the task was
    worded in another way when the model was tuned, that is said.
    Raises: ModelError where the settings name another template than the one that the model was tuned in.
    """
    folder = base_folder(BaseSettings(model=model))
    if not isinstance(settings, PromptSettings) or folder is None or not (folder / TEMPLATE_FILE).exists():
        return settings
    _warn_prompt_mismatch(settings, folder)
    if force or settings.force_template:
        return settings
    if {"template", "instruction_prefix"} & settings.model_fields_set:
        load_template(folder, settings.prompt_template)
        return settings
    stored = load_template(folder)
    known = TEMPLATES.get(stored.name)
    if known is None or replace(known, instruction_prefix=stored.instruction_prefix) != stored:
        found = f"was tuned in a wording of the template {stored.name!r} that is not among lotune's"
        raise ModelError(model, found, f"one of {', '.join(TEMPLATES)}", "--force-template asks in the task's own")
    return settings.model_copy(update={"template": stored.name, "instruction_prefix": stored.instruction_prefix})


def check_template(settings: TaskSettings, folder: Path | None) -> None:
    """Nothing, where a model to be tuned was not trained in another template than the task's, or that is forced.

    Raises: ModelError naming both.
    """
    if folder is not None and isinstance(settings, PromptSettings):
        load_template(folder, settings.prompt_template, force=settings.force_template)


def _warn_prompt_mismatch(settings: TaskSettings, folder: Path) -> None:
    trained, asked = load_task_prompt_settings(folder), settings.prompt_settings
    other = [key for key in trained if key in asked and str(trained[key]) != str(asked[key])]  # order counts, too
    if other and "name" not in other:
        before, now = (", ".join(f"task.{key}={words[key]!r}" for key in other) for words in (trained, asked))
        print_status(f"{folder} was tuned with {before}, and is asked with {now}")
