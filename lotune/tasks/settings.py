"""Settings of a task: which one, in which form it is asked, and how it is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lotune.settings import Settings

JUDGES = r"^(exact|significant:[1-9]\d*|decimals:\d+|relative:\d+(\.\d+)?([eE][-+]?\d+)?)$"


class TaskSettings(Settings):
    """What is asked and how it is judged."""

    name: str = "arithmetic"
    """Name of the task: arithmetic or reading."""
    language: Literal["zh", "en", "both"] = "zh"
    """Language of the generated rows."""
    shares: Literal["deduplicated", "raw"] = "deduplicated"
    """Mix of the generated kinds: as in the contest's rows without duplicates (harder), or as in its raw file."""
    judge: str = Field("significant:5", pattern=JUDGES)
    """How a number is compared with its key: exact, significant:DIGITS, decimals:DIGITS or relative:TOLERANCE."""
    working: bool = True
    """Whether the answers that are trained on show the written working before the result."""
    template: str = "alpaca"
    """Prompt template: alpaca, plain or qa (reading always takes the retention prompt)."""
    preamble: str = ""
    """Text put before the problem."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens; null takes the task's own."""
