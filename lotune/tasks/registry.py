"""The tasks by name: one row makes a task known to recipes and to the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.task import ArithmeticSettings, ArithmeticTask
from lotune.tasks.custom import CustomSettings, CustomTask
from lotune.tasks.instructions.task import InstructionsSettings, InstructionsTask
from lotune.tasks.multiple_choice import ChoiceSettings, MultipleChoiceTask
from lotune.tasks.reading.task import ReadingSettings, ReadingTask
from lotune.tasks.sentence_classification import SentenceClassificationTask, SentencesSettings
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task


class TaskEntry(NamedTuple):
    """What a name stands for: the settings of the task, and what makes the task from them."""

    settings: type[TaskSettings]
    make: Callable[[Any], Task]


TASKS: Mapping[str, TaskEntry] = {
    "arithmetic": TaskEntry(ArithmeticSettings, ArithmeticTask),
    "reading": TaskEntry(ReadingSettings, ReadingTask),
    "instructions": TaskEntry(InstructionsSettings, InstructionsTask),
    "choice": TaskEntry(ChoiceSettings, MultipleChoiceTask),
    "sentences": TaskEntry(SentencesSettings, SentenceClassificationTask),
    "custom": TaskEntry(CustomSettings, CustomTask),
}
"""Tasks by name."""
DEFAULT_TASK = "arithmetic"
"""The task of settings that name none."""

if TYPE_CHECKING:
    AnyTaskSettings = TaskSettings
else:
    AnyTaskSettings = Annotated[reduce(or_, (entry.settings for entry in TASKS.values())), Field(discriminator="name")]
"""The settings of one of the tasks: `name` decides which one's."""


TEXT = "text"
"""How well articles are foretold (`lotune.stages.evaluate_perplexity`): no task of questions and answers."""


def task_settings(name: str, **values: Any) -> TaskSettings:
    """Return the settings of the task of that name; values that it has no setting for are left out.

    Raises: SettingsError where there is no such task, with the nearest name.

    >>> task_settings("reading", language="en", scratchpad=False)
    ReadingSettings(name='reading', max_new_tokens=None, language='en', questions_per_passage='first')
    """
    model = entry_named(name).settings
    return model(**{key: value for key, value in values.items() if key in model.model_fields})


def build_task(settings: TaskSettings) -> Task:
    """Return the task that these settings are for.

    >>> build_task(ArithmeticSettings()).metric
    'accuracy'
    """
    return entry_named(settings.name).make(settings)


def entry_named(name: str) -> TaskEntry:
    """Return the entry of a task. Raises: SettingsError where there is none, with the nearest name."""
    if entry := TASKS.get(name):
        return entry
    near = [] if name == TEXT else get_close_matches(name, (*TASKS, TEXT), 1)
    remedy = f"did you mean {near[0]}?" if near else ""
    expected = f"one of {', '.join(TASKS)}; and {TEXT}, which `evaluate --model` alone has"
    raise SettingsError("task.name", f"{name!r} is unknown", expected, remedy)
