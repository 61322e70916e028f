"""Settings of the base model and of the adapter that is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

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
    """The few parameters that are trained; each method has settings of its own (`lotune.model.methods`)."""

    tag_field: ClassVar[str] = "method"

    method: str
    """How trainable parameters are added."""
    force_base: bool = False
    """Whether to accept an adapter that was made for a base with other weights."""
    init_from: Path | None = None
    """Folder of a saved adapter in PEFT's format to go on from; its shape and scale are taken from it."""
