"""Settings of the evaluation, of the retention gate and of the score."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.model.settings import Dtype
from lotune.settings import Settings
from lotune.tasks.registry import RETENTION_TASK

OnTooLong = Literal["wrong", "stop", "truncate"]
"""How to treat a row whose prompt is too long for the model."""


class EvaluateSettings(Settings):
    """How models are tested."""

    checkpoints: Literal["chosen", "all"] = "chosen"
    """Checkpoints to test: the one chosen by validation, or all."""
    max_batch_tokens: int = Field(32_768, ge=1)
    """Maximum number of tokens in a batch, prompts and answers together."""
    dtype: Dtype = "auto"
    """Dtype of the weights for generation; auto: base.dtype if it is set, otherwise float32 on a CPU."""
    # "wrong" rather than "truncate": a question without its middle is another question.
    on_too_long: OnTooLong = "wrong"
    """Rows whose prompt is too long and has no passage to shorten: count them as wrong, stop, or truncate the middle of
    the prompt."""
    engine: Literal["lotune", "vllm"] = "lotune"
    """Engine of `evaluate --model` and `generate`; vllm needs a GPU and pip install '.[vllm]'."""


# The contest asks 2,067; 200 take seconds with nano, and the interval says how sure they are.
RETENTION_ROWS = 200
"""Default number of generated retention rows."""


class ReplaySettings(Settings):
    """Rows of the retention task that are mixed into the training rows."""

    rows: int = Field(0, ge=0)
    """Number of generated retention rows to mix into the training rows, against forgetting."""


class RetentionSettings(Settings):
    """The ability that the model must not lose."""

    task: str = RETENTION_TASK
    """Task that measures what the model retains."""
    data: Path | None = None
    """File of retention rows (for reading: SQuAD's layout); null: generate them."""
    rows: int | None = Field(None, ge=1)
    """Number of retention rows, sampled by seed; null: all rows of a file, or 200 generated ones."""
    language: Literal["zh", "en", "both"] = "both"
    """Language of the generated retention rows."""
    replay: ReplaySettings = Field(default_factory=ReplaySettings)
    # The contest's rule: F1 and EM each keep 90 % of the base's.
    min_retained: float = Field(0.9, ge=0, le=1)
    """Fraction of the base's score that each retention metric must keep."""


class ScoreSettings(Settings):
    """How accuracy and parameter ratio are combined into a score."""

    rule: Literal["phase1", "phase2"] = "phase1"
    """Scoring rule: phase1 is 0.3 (1 - ratio) + 0.7 accuracy, phase2 0.3 (1 - 10 ratio) + 0.7 accuracy."""
    base_total: Literal["measured", "llama3-8b", "internlm-7b"] = "measured"
    """Total that trainable parameters are divided by: the base's own, or the contest's rounded total of a model."""
