"""Settings of the evaluation, of the retention gate and of the score."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.model.settings import Dtype
from lotune.settings import Settings

OnTooLong = Literal["wrong", "stop", "truncate"]
"""What a question does whose prompt is too long for the model."""


class EvaluateSettings(Settings):
    """How models are tested."""

    checkpoints: Literal["chosen", "all"] = "chosen"
    """Which checkpoints are tested: the one that validation chose, or all, with the contest's rule beside it."""
    max_batch_tokens: int = Field(32_768, ge=1)
    """Most tokens in one batch, prompts and answers together."""
    dtype: Dtype = "auto"
    """Number format in which models answer: auto takes base.dtype where it names one, else float32 on a processor."""
    on_too_long: OnTooLong = "wrong"
    """Rows whose prompt is too long for the model, with no passage to cut: count as wrong without being asked, stop, or
    are asked without the middle of the prompt."""
    engine: Literal["lotune", "vllm"] = "lotune"
    """What answers in `evaluate --model` and `generate`; vllm needs a GPU and pip install '.[vllm]'."""


RETENTION_ROWS = 200
"""How many retention rows are generated, where the settings do not say."""


class ReplaySettings(Settings):
    """Rows of the retained task that are mixed into the training rows."""

    rows: int = Field(0, ge=0)
    """How many generated rows of the retained task to mix in, so that the model keeps the ability."""


class RetentionSettings(Settings):
    """What the model must not lose."""

    task: str = "reading"
    """Task that measures the retained ability."""
    data: Path | None = None
    """File of retention rows (for reading: SQuAD's layout); null lets the task's generator write them."""
    rows: int | None = Field(None, ge=1)
    """How many rows to ask, drawn by seed; null: all rows of a file, or 200 generated ones."""
    language: Literal["zh", "en", "both"] = "both"
    """Language of generated retention rows."""
    replay: ReplaySettings = Field(default_factory=ReplaySettings)
    min_retained: float = Field(0.9, ge=0, le=1)
    """Share of each of the base's retention metrics that must be kept."""


class ScoreSettings(Settings):
    """How accuracy and parameter ratio make one score."""

    rule: Literal["phase1", "phase2"] = "phase1"
    """Scoring rule: phase1 is 0.3 (1 - ratio) + 0.7 accuracy, phase2 0.3 (1 - 10 ratio) + 0.7 accuracy."""
    base_total: Literal["measured", "llama3-8b", "internlm-7b"] = "measured"
    """What the ratio divides by: the base's own count, or the contest's rounded total of a model."""
