"""Choose a model's prompt template: that in its folder, from its tuning, or the best for its tokeniser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.chat_template import CHAT, ChatTemplate, chat_template_of
from lotune.data.templates import TEMPLATE_FILE, TEMPLATES, Template, load_task_prompt_settings, load_template
from lotune.errors import ModelError, SettingsError
from lotune.files import read_json
from lotune.model.loading import base_folder, load_tokenizer
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.tasks.registry import build_task
from lotune.tasks.settings import AUTO, PromptSettings, TaskSettings
from lotune.tasks.task import Conversational, Task


def with_stored_template(settings: TaskSettings, model: str, force: bool) -> TaskSettings:
    """Return the settings of a task with the prompt template in a model's folder, unless they name a template.

    The reading task has a fixed prompt, and its settings stay as they are; so do all with `force`. A warning lists the
    prompt settings of the task that have changed since the model was tuned.

    Raises: ModelError if the settings name a template other than that of the model's tuning.
    """
    folder = base_folder(BaseSettings(model=model))
    if not isinstance(settings, PromptSettings) or folder is None or not (folder / TEMPLATE_FILE).exists():
        return settings
    _warn_prompt_mismatch(settings, folder)
    if force or settings.force_template:
        return settings
    named = {"template", "instruction_prefix"} & settings.model_fields_set and settings.template != AUTO
    if named:
        load_template(folder, settings.prompt_template)
        return settings
    return _in_stored_template(settings, folder)


def _in_stored_template(settings: PromptSettings, folder: Path) -> PromptSettings:
    """Return the settings with the template of a folder. Raises: ModelError if the task does not have it."""
    stored = load_template(folder)
    updated = settings.model_copy(update={"template": stored.name, "instruction_prefix": stored.instruction_prefix})
    # The name alone proves nothing: another version of lotune, or a custom task, may word it differently.
    try:
        same = updated.prompt_template == stored
    except SettingsError:
        same = False
    if not same:
        found = f"was tuned with a version of the template {stored.name!r} that {settings.name} does not have"
        expected = f"one of {', '.join(TEMPLATES)}"
        raise ModelError(str(folder), found, expected, "--force-template uses the task's own")
    return updated


def resolve_auto(settings: TaskSettings, base: BaseSettings) -> TaskSettings:
    """Return settings with a template for "auto": chat if the tokeniser of `base` has a chat template, else alpaca."""
    if not isinstance(settings, PromptSettings) or settings.template != AUTO:
        return settings
    return settings.model_copy(update={"template": CHAT if has_chat_template(base) else "alpaca"})


def resolve_training_template(recipe: Recipe) -> Recipe:
    """Return the recipe with the template of its adapter or base in place of "auto".

    That is the stored template of the initial adapter or of the base, else the tokeniser's chat template, else alpaca.
    """
    settings = recipe.task
    if not isinstance(settings, PromptSettings) or settings.template != AUTO:
        return recipe
    folders = [folder for folder in (recipe.adapter.init_from, base_folder(recipe.base)) if folder is not None]
    stored = next((folder for folder in folders if (folder / TEMPLATE_FILE).exists()), None)
    if stored is not None and not settings.force_template:
        return recipe.model_copy(update={"task": _in_stored_template(settings, stored)})
    return recipe.model_copy(update={"task": resolve_auto(settings, recipe.base)})


def has_chat_template(base: BaseSettings) -> bool:
    """Return whether the tokeniser of a base model has a chat template."""
    # In a folder, two small files show it; loading the tokeniser would import transformers.
    folder = base_folder(base)
    if folder is None:
        tokenizer: Any = load_tokenizer(base)[0]
        return tokenizer.chat_template is not None
    config = folder / "tokenizer_config.json"
    content = read_json(config) if config.exists() else {}
    return (folder / "chat_template.jinja").exists() or (isinstance(content, dict) and "chat_template" in content)


def conversation_format(settings: TaskSettings, base: BaseSettings) -> Template | ChatTemplate:
    """Return the template for conversations: a prompt template, or the chat template of the base's tokeniser.

    Raises: ModelError for a chat template that is missing or unusable.
    """
    if isinstance(settings, PromptSettings) and settings.template == CHAT:
        return chat_template_of(load_tokenizer(base)[0], settings.instruction_prefix)
    return settings.prompt_template


def build_prompted_task(settings: TaskSettings, base: BaseSettings) -> Task:
    """Return the task of the settings, with prompts in the chat template of the base's tokeniser if they name it.

    Raises: ModelError for a chat template that is missing or unusable.
    """
    task = build_task(settings)
    if not isinstance(task, Conversational):
        return task
    form = conversation_format(settings, base)
    return task.with_chat_template(form) if isinstance(form, ChatTemplate) else task


def check_template(settings: TaskSettings, folder: Path | None) -> None:
    """Raise ModelError if a model to tune was trained in another template than the task's, unless forced."""
    if folder is not None and isinstance(settings, PromptSettings):
        load_template(folder, settings.prompt_template, force=settings.force_template)


def _warn_prompt_mismatch(settings: TaskSettings, folder: Path) -> None:
    trained, current = load_task_prompt_settings(folder), settings.prompt_settings
    # Compared as text, as the order of labels counts, and equal dicts may have different orders.
    changed = [key for key in trained if key in current and str(trained[key]) != str(current[key])]
    if changed and "name" not in changed:  # another task has another prompt anyway
        before, now = (", ".join(f"task.{key}={values[key]!r}" for key in changed) for values in (trained, current))
        print_status(f"{folder} was tuned with {before}, now prompted with {now}")
