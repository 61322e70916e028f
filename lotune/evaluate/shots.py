"""Answered examples before a question: the k-shot setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lotune.data.examples import Example
from lotune.data.formats import short
from lotune.errors import DataError, SettingsError
from lotune.tasks.task import Choosing, Task

BETWEEN = "\n\n"
"""What stands between an example and what follows it."""


def with_shots(task: Task, examples: Sequence[Example], shots: Sequence[Example]) -> list[Example]:
    """The examples, each after the prompts of `shots` with answers as the task wants them, the same for all.

    Raises: SettingsError for conversations, which have turns of their own; DataError for a shot without an answer, or
    whose answer the task itself judges to be wrong.
    """
    if any(example.turns for example in (*examples, *shots)):
        raise SettingsError("--shots", "the rows are conversations of several turns", remedy="leave --shots out")
    head = "".join(shot.prompt + _shown(task, shot) + BETWEEN for shot in shots)
    return [
        replace(example, prompt=head + example.prompt, prompt_parts=_after(head, example.prompt_parts))
        for example in examples
    ]


def _shown(task: Task, shot: Example) -> str:
    """The answer to an example in the form that is asked for: of answers to choose from, the right one."""
    if not shot.answers:
        raise DataError(shot.id, "has no answer to show", "rows with their keys", "name others with --shots-data")
    if isinstance(task, Choosing) and task.chooses:
        options = enumerate(task.continuations(shot))
        return next(text for place, text in options if task.judge(shot, task.chosen(shot, place)).right)
    if not task.score_of and task.judge(shot, shot.target).right is False:
        found = f"its answer {short(shot.target, 40)!r}, shown as an example, would be judged wrong"
        raise DataError(shot.id, found, f"an answer that {task.rule} finds right", "change task.judge, or the answers")
    return shot.target


def _after(head: str, parts: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
    return None if parts is None else (head + parts[0], parts[1], parts[2])
