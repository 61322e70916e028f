"""Settings of the base model and of the adapter that is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lotune.settings import Settings

ADAPTER_CONFIG = "adapter_config.json"
"""The file that identifies a folder as an adapter in PEFT's format."""


Dtype = Literal["auto", "float32", "bfloat16"]
"""Names of dtypes in settings."""


class BaseSettings(Settings):
    """The model to start from."""

    model: str = "nano"
    """The base model: nano (embedded), a folder in Hugging Face's layout, or a name on its hub."""
    dtype: Dtype = "auto"
    """Dtype of the weights in tuning; auto: bfloat16 if its matrix products are clearly faster, else float32."""


class AdapterSettings(Settings):
    """The few parameters that are trained; each method adds its own settings (`lotune.model.methods`)."""

    tag_field: ClassVar[str] = "method"

    method: str
    """How trainable parameters are added."""
    budget: float | None = Field(None, gt=0, le=1)
    """Largest number of parameters of the adapter, as a fraction of those of the base by score.base_total, such as
    0.0005. A larger adapter is refused before the weights are loaded, and rank=auto keeps within it; null: no limit."""
    force_base: bool = False
    """Whether to accept an adapter that was made for a base with other weights."""
    init_from: Path | None = None
    """Folder of a saved adapter in PEFT's format to continue from, which also determines shape and scale."""
