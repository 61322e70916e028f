"""Few-shot prompting: answered examples before each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lotune.data.examples import Example
from lotune.data.file_readers import truncate_text
from lotune.errors import DataError, SettingsError
from lotune.tasks.task import MultipleChoice, Task

SHOT_SEPARATOR = "\n\n"
"""Separator after each example."""


def add_few_shot(task: Task, examples: Sequence[Example], shots: Sequence[Example]) -> list[Example]:
    """Return the examples with the prompts and answers of `shots` before each prompt.

    Raises: SettingsError for conversations; DataError for a shot without an answer, or with an answer that the task's
    scorer finds wrong.
    """
    if any(example.earlier_turns or example.turn_end for example in (*examples, *shots)):
        raise SettingsError("--shots", "the rows are conversations", remedy="leave --shots out")
    # The same examples for every row: the engine computes their keys and values once (prefix sharing).
    prefix = "".join(shot.prompt + _answer_text(task, shot) + SHOT_SEPARATOR for shot in shots)
    return [
        replace(example, prompt=prefix + example.prompt, prompt_parts=_prepend(prefix, example.prompt_parts))
        for example in examples
    ]


def _answer_text(task: Task, shot: Example) -> str:
    """Return the answer to show for a shot: its target, or the correct option if options are compared by likelihood."""
    if not shot.references:
        raise DataError(shot.id, "has no answer to show", "rows with answers", "choose another file with --shots-data")
    if isinstance(task, MultipleChoice) and task.chooses_by_likelihood:
        options = enumerate(task.continuations(shot))
        return next(text for index, text in options if task.judge(shot, task.answer_text(shot, index)).correct)
    # A wrong example silently teaches wrong answers. Graded metrics such as ROUGE-L have no verdict to check.
    if not task.score_name_by_metric and task.judge(shot, shot.target).correct is False:
        fault = f"its answer {truncate_text(shot.target, 40)!r}, shown as an example, would be judged wrong"
        raise DataError(
            shot.id, fault, f"an answer that {task.scorer} finds right", "change task.scorer, or the answers"
        )
    return shot.target


def _prepend(prefix: str, parts: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
    """Return the parts of a prompt with a prefix before the first part; only the middle part, the passage, is cut."""
    return None if parts is None else (prefix + parts[0], parts[1], parts[2])
