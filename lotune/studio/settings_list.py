"""All settings of a recipe as a page lists them: key, type, default and sentence, in English and Chinese."""

from __future__ import annotations

from typing import Any

from lotune.recipe import Recipe
from lotune.settings_help import describe

MAIN = (
    "adapter.method", "adapter.rank", "tune.learning_rate", "tune.epochs", "tune.micro_batch_rows",
    "retention.replay.rows",
)  # fmt: skip
"""The settings that decide most about a tuning, which a form shows first."""
OWN_FIELDS = ("base.model", "task.name", "data.train")
"""Settings with fields of their own in the form."""


def settings_list() -> list[dict[str, Any]]:
    """Return key, type, default and help of each setting; `choices` has the values of one that has few."""
    return [
        {
            "key": line.key, "type": line.type, "default": line.default, "help": line.sentence,
            "choices": _choices(line.type), "main": line.key in MAIN, "own": line.key in OWN_FIELDS,
        }
        for line in describe(Recipe)
    ]  # fmt: skip


def _choices(kind: str) -> list[str]:
    """Return the values of a type that is a list of words, none for another.

    >>> _choices("auto | on | off"), _choices("int | null"), _choices("str")
    (['auto', 'on', 'off'], [], [])
    """
    words = kind.split(" | ")
    free = {"int", "float", "str", "path", "bool", "mapping", "null"}
    if words == ["bool"]:
        return ["true", "false"]
    return [] if len(words) < 2 or any(word in free or "[" in word for word in words) else words
