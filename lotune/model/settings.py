"""Settings of the base model and of the adapter that is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.settings import Settings

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which an adapter's folder, in PEFT's format, is known."""


Dtype = Literal["auto", "float32", "bfloat16"]
"""Names of number formats in settings."""


class BaseSettings(Settings):
    """The model to start from."""

    model: str = "nano"
    """The base model: nano (embedded), a folder in Hugging Face's layout, or a name on its hub."""
    dtype: Dtype = "auto"
    """Number format of the weights in tuning: auto takes bfloat16 where its products are clearly faster."""


class AdapterSettings(Settings):
    """The few parameters that are trained."""

    method: Literal["lora"] = "lora"
    """How trainable parameters are added: lora."""
    rank: int = Field(8, ge=1)
    """Rank of each low-rank update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update: it is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the update's inputs dropped while training."""
    target_modules: str | list[str] = ["q_proj", "v_proj"]
    """Which linear layers are tuned: names, or one pattern; MindFormers' names (.*wq|.*wv) are translated."""
    force_base: bool = False
    """Whether to accept an adapter that was made for a base with other weights."""
    init_from: Path | None = None
    """Folder of a saved adapter in PEFT's format to go on from; rank, alpha and targets are taken from it."""
