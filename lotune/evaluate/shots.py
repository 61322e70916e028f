"""Answered examples before a question: the k-shot setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lotune.data.examples import Example
from lotune.errors import DataError, SettingsError

BETWEEN = "\n\n"
"""What stands between an example and what follows it."""


def with_shots(examples: Sequence[Example], shots: Sequence[Example]) -> list[Example]:
    r"""The examples, each after the prompts of `shots` with their answers, the same for all.

    Raises: SettingsError for conversations, which have turns of their own; DataError for a shot without an answer.

    >>> with_shots([Example("1", "2+2=", "")], [Example("2", "1+1=", "", answers=("2",))])[0].prompt
    '1+1=2\n\n2+2='
    """
    if any(example.turns for example in (*examples, *shots)):
        raise SettingsError("--shots", "the rows are conversations of several turns", remedy="leave --shots out")
    head = ""
    for shot in shots:
        if not shot.answers:
            raise DataError(shot.id, "has no answer to show", "rows with their keys", "name others with --shots-data")
        head += shot.prompt + shot.answers[0] + BETWEEN
    return [
        replace(example, prompt=head + example.prompt, prompt_parts=_after(head, example.prompt_parts))
        for example in examples
    ]


def _after(head: str, parts: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
    return None if parts is None else (head + parts[0], parts[1], parts[2])
