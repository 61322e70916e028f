"""Settings of the abilities that a tuned model should keep: what measures each, on which rows, and whether it gates."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.settings import Settings
from lotune.tasks.registry import RETENTION_TASK


class AbilityRows(Settings):
    """The rows by which an ability is measured."""

    task: str = RETENTION_TASK
    """Task that measures what the model retains."""
    data: Path | None = None
    """File of retention rows (for reading: SQuAD's layout); null: generate them."""
    rows: int | None = Field(None, ge=1)
    """Number of retention rows, sampled by seed; null: all rows of a file, or 500 generated ones."""
    language: Literal["zh", "en", "both"] = "both"
    """Language of the generated retention rows."""
    validation: Path | None = None
    """File of rows on which the gate is watched while tuning; null: generate them, or set rows of `data` aside."""
    validation_rows: int | None = Field(None, ge=0)
    """Number of those rows, sampled by seed; 0: watch nothing; null: all rows of a file, or 100."""


class AbilitySettings(AbilityRows):
    """One of several abilities."""

    # The name is part of file names.
    name: str | None = Field(None, pattern=r"^[\w-]+$")
    """Name of the ability; null: that of its task."""
    gate: bool = True
    """Whether the model must keep it for the result to be valid; if not, it is only measured."""
    replay: bool = True
    """Whether rows of its generator are replayed."""

    @property
    def label(self) -> str:
        """The name of the ability on the scorecard."""
        return self.name or self.task


FLAT_SETTINGS = tuple(AbilityRows.model_fields)
"""The settings of the only ability if a recipe does not list several."""
