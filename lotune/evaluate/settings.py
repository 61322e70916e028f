"""Settings of the evaluation and of the score; those of retention stand beside the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lotune.model.settings import Dtype
from lotune.settings import Settings

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
    quantize: Literal["none", "int8"] = "none"
    """Linear layers of `evaluate --model`, `generate`, `chat` and `serve` on a CPU: int8 multiplies in 8 bits where
    that is faster; adapters stay in float32, and figures say so."""
    engine: Literal["lotune", "vllm"] = "lotune"
    """Engine of `evaluate --model` and `generate`; vllm needs a GPU and pip install '.[vllm]'."""


class ScoreSettings(Settings):
    """How accuracy and parameter ratio are combined into a score."""

    rule: Literal["phase1", "phase2"] = "phase1"
    """Scoring rule: phase1 is 0.3 (1 - ratio) + 0.7 accuracy, phase2 0.3 (1 - 10 ratio) + 0.7 accuracy."""
    base_total: Literal["measured", "llama3-8b", "internlm-7b"] = "measured"
    """Total that trainable parameters are divided by: the base's own, or the contest's rounded total of a model."""
