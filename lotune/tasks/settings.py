"""Settings of a task: which one, in which form it is asked, and how it is judged."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field

from lotune.data.templates import Template, template_named
from lotune.errors import SettingsError
from lotune.settings import Settings

NUMBER_JUDGES = r"exact|significant:[1-9]\d*|decimals:\d+|relative:\d+(\.\d+)?([eE][-+]?\d+)?"
TEXT_JUDGES = r"exact|contains|number|rouge-l|f1"
LIKELIHOOD_JUDGES = r"likelihood:(letter|text|text-normalised)"
OTHER_JUDGES = r"letter|label|regex:.+"
CUSTOM_JUDGES = rf"{TEXT_JUDGES}|{OTHER_JUDGES}"


class TaskSettings(Settings):
    """What is asked and how it is judged."""

    name: str = "arithmetic"
    """Name of the task: arithmetic, reading, instructions, choice, sentences or custom."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Names of the file's columns, where they are not the task's: {instruction: question, output: answer}."""
    language: Literal["zh", "en", "both"] = "zh"
    """Language of the generated rows."""
    shares: Literal["deduplicated", "raw"] = "deduplicated"
    """Mix of the generated kinds: as in the contest's rows without duplicates (harder), or as in its raw file."""
    judge: str | None = Field(None, pattern=rf"^({NUMBER_JUDGES}|{CUSTOM_JUDGES}|{LIKELIHOOD_JUDGES})$")
    """How an answer is compared with its key. For arithmetic: exact, significant:DIGITS, decimals:DIGITS or
    relative:TOLERANCE; for instructions: exact, contains, number, rouge-l or f1; for custom these, letter, label and
    regex:PATTERN; for choice: letter, likelihood:letter, likelihood:text or likelihood:text-normalised; null:
    significant:5 for arithmetic, letter for choice, else exact."""
    questions: Literal["first", "all"] = "first"
    """Of reading: which questions of a paragraph are asked: the first, as in the contest, or all, as in SQuAD."""
    answers: Literal["all", "last"] = "all"
    """Which answers of a conversation are trained on: all of the assistant's, or the last only."""
    prompt: str = "{question}"
    """Of custom: what is asked, with the names of the file's columns in braces."""
    answer: str = "answer"
    """Of custom: the column of the answer."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of sentences, and of custom judged by label: the word of each label, the positive one last; {} means 0, 1."""
    instruction: str | None = None
    """Of sentences: what is asked of them; {labels} stands for the words. null takes the task's own."""
    copies: int = Field(0, ge=0, le=100)
    """Of a choice: how many more copies of a training row there are, with shuffled options."""
    full_text: bool = False
    """Of a choice: whether the answers that are trained on carry the right option's text after its letter."""
    reasoning: bool = False
    """Of a choice: whether the answers that are trained on begin with "Let's think step by step."."""
    wording: Literal["contest", "plain"] = "contest"
    """Of a choice: the words of the instruction, the contest's or shorter ones."""
    working: bool = True
    """Whether the answers that are trained on show the written working before the result."""
    template: str = "alpaca"
    """Prompt template: alpaca, plain or qa (reading always takes the retention prompt)."""
    preamble: str = ""
    """Text put before the problem."""
    force_template: bool = False
    """Whether a base, or an adapter to start with, that was trained in another template is tuned in this one."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens; null takes the task's own."""

    @property
    def prompt_template(self) -> Template:
        """The prompt template with the preamble. Raises: SettingsError where there is none of that name."""
        return replace(template_named(self.template), preamble=self.preamble)

    @property
    def worded(self) -> dict[str, Any]:
        """The task's name and the settings that word its questions; empty where it has no such settings.

        >>> TaskSettings(name="choice").worded
        {'name': 'choice', 'wording': 'contest'}
        """
        names = WORDING.get(self.name, ())
        return {"name": self.name, **{name: getattr(self, name) for name in names}} if names else {}


WORDING = {"choice": ("wording",), "sentences": ("instruction", "labels"), "custom": ("prompt", "labels")}
"""The settings that word the questions of a task, beside the template."""


def check_judge(settings: TaskSettings, judges: str) -> None:
    """Nothing, where the task has the judge that the settings name; `judges` is the pattern of those that it has.

    Raises: SettingsError for another one.
    """
    if settings.judge is not None and not re.fullmatch(judges, settings.judge):
        names = judges.replace(LIKELIHOOD_JUDGES, "likelihood:letter|likelihood:text|likelihood:text-normalised")
        names = re.sub(r":(?!letter|text)[^|]*", lambda found: ":PATTERN" if found[0] == ":.+" else ":NUMBER", names)
        names = names.replace("|", ", ") or "no setting: it has but one"
        raise SettingsError("task.judge", f"{settings.judge!r} is no judge of {settings.name}", names)


def check_columns(settings: TaskSettings, fields: Collection[str]) -> None:
    """Nothing, where every column of the settings stands for a field of the task's rows.

    Raises: SettingsError for another name, with the nearest field.
    """
    unknown = [name for name in settings.columns if name not in fields]
    if unknown:
        near = [f"did you mean {close[0]}?" for name in unknown if (close := get_close_matches(name, fields, 1))]
        found = f"{', '.join(unknown)} is no field of {settings.name}"
        raise SettingsError("task.columns", found, f"of {', '.join(fields) or 'none'}", " ".join(near))
