"""The tasks by name: one row makes a task known to recipes and to the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.choice import ChoiceTask
from lotune.tasks.custom import CustomTask
from lotune.tasks.instructions.task import InstructionsTask
from lotune.tasks.reading.task import ReadingTask
from lotune.tasks.sentences import SentencesTask
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task

TASKS: Mapping[str, Callable[[TaskSettings], Task]] = {
    "arithmetic": ArithmeticTask,
    "reading": ReadingTask,
    "instructions": InstructionsTask,
    "choice": ChoiceTask,
    "sentences": SentencesTask,
    "custom": CustomTask,
}
"""Tasks by name; each is made from its settings."""


TEXT = "text"
"""How well articles are foretold (`lotune.stages.texts`): no task of questions and answers."""


def build_task(settings: TaskSettings) -> Task:
    """The task of that name, with its settings.

    Raises: SettingsError where there is none, with the nearest name.

    >>> build_task(TaskSettings(name="arithmetic")).metric
    'accuracy'
    """
    if make := TASKS.get(settings.name):
        return make(settings)
    near = [] if settings.name == TEXT else get_close_matches(settings.name, (*TASKS, TEXT), 1)
    remedy = f"did you mean {near[0]}?" if near else ""
    expected = f"one of {', '.join(TASKS)}; and {TEXT}, which `evaluate --model` alone has"
    raise SettingsError("task.name", f"{settings.name!r} is not known", expected, remedy)
