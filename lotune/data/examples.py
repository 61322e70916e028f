"""One question of a task, as it travels from rows to batches, predictions and verdicts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One question of a task: what the model is shown and what counts as right.

    `prompt` is the whole text before the answer, template included; `target` the answer to train on (with written
    working where the task has any, without an end-of-text token), empty where the row has no key; `answers` the keys
    that the judge accepts; `kind` the group it is reported under.
    """

    id: str
    prompt: str
    target: str
    answers: tuple[str, ...] = ()
    kind: str = ""
    choices: tuple[str, ...] = ()
    prompt_parts: tuple[str, str, str] | None = None
    """Head, middle and tail of `prompt` where only the middle (a passage) may be cut to fit the context."""
