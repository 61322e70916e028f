"""Settings of the abilities that a tuned model should keep: what measures each, on which rows, and whether it gates."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.settings import Settings
from lotune.tasks.registry import RETENTION_TASK


class AbilityRows(Settings):
    """The task and the rows that measure an ability."""

    task: str = RETENTION_TASK
    """Task that measures what the model retains."""
    data: Path | None = None
    """File of retention rows (for reading: in SQuAD's layout); null: generate them."""
    rows: int | None = Field(None, ge=1)
    """Number of retention rows, sampled by seed; null: all rows of a file that are not set aside for validation, or 500
    generated ones."""
    language: Literal["zh", "en", "both"] = "both"
    """Language of the generated retention rows."""
    validation: Path | None = None
    """File of rows on which the gate is watched while tuning; null: generate them, or set rows of `data` aside."""
    validation_rows: int | None = Field(None, ge=0)
    """Number of rows on which the gate is watched, sampled by seed; 0: watch nothing; null: all rows of
    `retention.validation`, or 100."""


class AbilitySettings(AbilityRows):
    """One of several abilities."""

    # The name is a part of file names, so it has no separators.
    name: str | None = Field(None, pattern=r"^[\w-]+$")
    """Name of the ability; null: the name of its task."""
    gate: bool = True
    """Whether the model must keep the ability for the result to be valid; false: it is only measured."""
    replay: bool = True
    """Whether rows of its task's generator are replayed, if the source of replay rows is generator."""

    @property
    def label(self) -> str:
        """The name of the ability on the scorecard."""
        return self.name or self.task


FLAT_SETTINGS = tuple(AbilityRows.model_fields)
"""Names of the settings that describe the only ability of a recipe without a list."""
