"""Settings that all tasks share: name, prompt template, columns and scorer."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import AfterValidator, Field

from lotune.data.templates import TEMPLATES, Template, template_named
from lotune.errors import SettingsError
from lotune.settings import Settings

AUTO = "auto"
"""The value of `template` that takes the prompt template of the checkpoint."""
# Patterns of the names of scorers: the settings check them, and `one_of` turns them into the list that an error shows.
NUMBER_TOLERANCES = r"significant:[1-9]\d*|decimals:\d+|relative:\d+(\.\d+)?([eE][-+]?\d+)?"
NUMBER_SCORERS = rf"exact|{NUMBER_TOLERANCES}"
TEXT_SCORERS = rf"exact|contains|number|rouge-l|f1|bits-per-byte|{NUMBER_TOLERANCES}"
LIKELIHOOD_SCORERS = r"likelihood:(letter|text|text-normalised)"
OTHER_SCORERS = r"letter|label|regex:.+"
CUSTOM_SCORERS = rf"{TEXT_SCORERS}|{OTHER_SCORERS}"


class TaskSettings(Settings):
    """The settings that all tasks have; each task adds its own."""

    own_template: ClassVar[str] = ""
    """Name of the fixed prompt of a task that has no choice of prompt templates."""
    prompt_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the settings, besides the template, that change the wording of a prompt."""

    name: str
    """Name of the task."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer in tokens."""

    @property
    def scorer_name(self) -> str:
        """Name of the scorer; empty for a task that has only one."""
        return getattr(self, "scorer", "")

    @property
    def prompt_template(self) -> Template:
        """The prompt template to store with a checkpoint of the task."""
        return TEMPLATES["alpaca"]

    @property
    def prompt_settings(self) -> dict[str, Any]:
        """The task's name and the settings that change the wording of a prompt; empty if it has no such settings."""
        names = self.prompt_fields
        return {"name": self.name, **{name: getattr(self, name) for name in names}} if names else {}

    @property
    def chooses_by_likelihood(self) -> bool:
        """Whether the model ranks given answers, so that the scorer determines the prediction."""
        return False

    @property
    def scorer_changes_targets(self) -> bool:
        """Whether the training targets depend on the scorer."""
        return False

    @property
    def unlisted_labels(self) -> str:
        """The field of a row that holds its label if the settings do not list the labels; empty otherwise."""
        return ""

    @property
    def key_column(self) -> str | None:
        """The column of the reference answer if the settings name it."""
        return None


class PromptSettings(TaskSettings):
    """The settings of a task that renders its questions in a prompt template."""

    template: str = "alpaca"
    """Prompt template: alpaca, plain, qa, retention or internlm."""
    instruction_prefix: str = ""
    """Text to put before the instruction."""
    force_template: bool = False
    """Whether to tune a base or adapter in this template even if it was trained in another."""

    @property
    def prompt_template(self) -> Template:
        """The prompt template with the instruction prefix. Raises: SettingsError if no template has that name."""
        return replace(template_named(self.template), instruction_prefix=self.instruction_prefix)


class RowSettings(PromptSettings):
    """The settings of a task that reads rows with named fields."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Names of the file's columns if they differ from the task's: {instruction: question, output: answer}."""


def one_of(scorers: str) -> AfterValidator:
    """Return the validator of a setting that names a scorer; `scorers` is the pattern of valid names."""
    # The pattern is shown as names: `:.+` becomes :PATTERN, any other argument :NUMBER.
    names = scorers.replace(LIKELIHOOD_SCORERS, "likelihood:letter|likelihood:text|likelihood:text-normalised")
    names = re.sub(r":(?!letter|text)[^|]*", lambda match: ":PATTERN" if match[0] == ":.+" else ":NUMBER", names)

    def check(value: str) -> str:
        if not re.fullmatch(scorers, value):
            raise ValueError(f"expected one of {names.replace('|', ', ')}")
        return value

    return AfterValidator(check)


def check_columns(settings: RowSettings, fields: Collection[str]) -> None:
    """Raise SettingsError with the nearest field if a column is mapped to no field of the task's rows."""
    unknown = [name for name in settings.columns if name not in fields]
    if unknown:
        near = [f"did you mean {close[0]}?" for name in unknown if (close := get_close_matches(name, fields, 1))]
        message = f"{', '.join(unknown)} is not a field of {settings.name}"
        raise SettingsError("task.columns", message, f"of {', '.join(fields) or 'none'}", " ".join(near))
