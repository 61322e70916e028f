"""The table of tasks: a row makes a task available to recipes and to the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.task import ArithmeticSettings, ArithmeticTask
from lotune.tasks.copying import CopyingSettings, CopyingTask
from lotune.tasks.custom import CustomSettings, CustomTask
from lotune.tasks.equations import EquationsSettings, EquationsTask
from lotune.tasks.instructions.task import InstructionsSettings, InstructionsTask
from lotune.tasks.multiple_choice import ChoiceSettings, MultipleChoiceTask
from lotune.tasks.reading.task import ReadingSettings, ReadingTask
from lotune.tasks.sentence_classification import SentenceClassificationTask, SentencesSettings
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task
from lotune.tasks.text import TextSettings, TextTask
from lotune.tasks.text_continuation import ContinuationSettings, ContinuationTask


class TaskEntry(NamedTuple):
    """A task in the table: the model of its settings and the factory that builds it from them."""

    settings: type[TaskSettings]
    make: Callable[[Any], Task]


TASKS: Mapping[str, TaskEntry] = {
    "arithmetic": TaskEntry(ArithmeticSettings, ArithmeticTask),
    "reading": TaskEntry(ReadingSettings, ReadingTask),
    "instructions": TaskEntry(InstructionsSettings, InstructionsTask),
    "choice": TaskEntry(ChoiceSettings, MultipleChoiceTask),
    "sentences": TaskEntry(SentencesSettings, SentenceClassificationTask),
    "custom": TaskEntry(CustomSettings, CustomTask),
    "copying": TaskEntry(CopyingSettings, CopyingTask),
    "equations": TaskEntry(EquationsSettings, EquationsTask),
    "text": TaskEntry(TextSettings, TextTask),
    "text_continuation": TaskEntry(ContinuationSettings, ContinuationTask),
}
"""Tasks by name."""
DEFAULT_TASK = "arithmetic"
"""The task of a recipe without `task.name`."""
RETENTION_TASK = "reading"
"""The task that measures retention unless `retention.task` names another."""
CONVERSATION_TASK = "instructions"
"""The task of prompts and conversations that are typed on the command line."""

# mypy cannot evaluate a union that is computed from a table; pydantic needs the members to discriminate by name.
if TYPE_CHECKING:
    AnyTaskSettings = TaskSettings
else:
    AnyTaskSettings = Annotated[reduce(or_, (entry.settings for entry in TASKS.values())), Field(discriminator="name")]
"""The settings of a task, discriminated by `name`."""


TEXT = "text"
"""Name of the task of plain texts. `evaluate --model` measures perplexity instead of this task
(`lotune.stages.evaluate_perplexity`)."""


def task_settings(name: str, **values: Any) -> TaskSettings:
    """Return the settings of the named task. Values for which it has no setting are ignored.

    Raises: SettingsError with the nearest name if there is no such task.

    >>> task_settings("reading", language="en", scratchpad=False)
    ReadingSettings(name='reading', max_new_tokens=20, language='en', questions_per_passage='first')
    """
    model = entry_named(name).settings
    return model(**{key: value for key, value in values.items() if key in model.model_fields})


def build_task(settings: TaskSettings) -> Task:
    """Return the task with these settings.

    >>> build_task(ArithmeticSettings()).metric
    'accuracy'
    """
    return entry_named(settings.name).make(settings)


def entry_named(name: str) -> TaskEntry:
    """Return the entry of a task. Raises: SettingsError with the nearest name if there is none."""
    if entry := TASKS.get(name):
        return entry
    near = get_close_matches(name, TASKS, 1)
    remedy = f"did you mean {near[0]}?" if near else ""
    raise SettingsError("task.name", f"{name!r} is unknown", f"one of {', '.join(TASKS)}", remedy)
