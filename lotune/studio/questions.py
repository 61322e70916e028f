"""A question to a run's models as its task asks it: the fields of the question, and the prompt they become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lotune.recipe import read_recipe
from lotune.stages.prompt_template import build_prompted_task
from lotune.studio.errors import CallError
from lotune.studio.workspace import Workspace
from lotune.tasks.question_fields import question_fields, question_row


def fields_of(workspace: Workspace, run: str) -> list[str]:
    """Return the names of the fields that a question to a run's models has."""
    return list(question_fields(read_recipe(_recipe(workspace, run)).task))


def prompt_of(workspace: Workspace, run: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the prompt of a question, with the stop strings and the longest answer of its task.

    Raises: CallError for a task without fields; DataError for an empty field that it needs.
    """
    recipe = read_recipe(_recipe(workspace, run))
    if not question_fields(recipe.task):
        raise CallError(409, "no_fields", f"the task {recipe.task.name} is asked in conversations", "open the chat")
    task = build_prompted_task(recipe.task, recipe.base)
    [example] = task.examples([("the question", question_row(recipe.task, values))], training=False)
    return {"prompt": example.prompt, "stop": list(task.stop)[:4], "max_tokens": task.max_new_tokens}


def _recipe(workspace: Workspace, run: str) -> Any:
    return workspace.run(run) / "recipe.yaml"
