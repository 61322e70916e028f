"""Full tuning: all weights of the base are trained.

A checkpoint holds all weights, in float32. A copy of the base's weights stays in memory beside those that are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lotune.model.methods.lora import REFERENCE_ALPHA, lora_rate
from lotune.model.methods.method import Method
from lotune.model.settings import AdapterSettings
from lotune.model.shapes import ModelShape

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from lotune.model.fully_tuned import FullTuningConfig, FullyTunedModel


class FullSettings(AdapterSettings):
    """All weights of the base."""

    method: Literal["full"] = "full"
    """How trainable parameters are added."""


LORA_RATE_RATIO = 10
"""How many times LoRA's best rate is that of full tuning ("LoRA Without Regret", Thinking Machines Lab, 2025)."""


def _configure(settings: FullSettings, base: PreTrainedModel) -> FullTuningConfig:
    from lotune.model.fully_tuned import FullTuningConfig

    return FullTuningConfig(base.name_or_path)


def _add(base: PreTrainedModel, config: FullTuningConfig) -> FullyTunedModel:
    import torch

    from lotune.model.fully_tuned import FullyTunedModel

    model = FullyTunedModel(base, config, torch.float32)
    model.requires_grad_(True)
    return model


def _load(base: PreTrainedModel, folder: Path, config: Any, trainable: bool) -> FullyTunedModel:
    import torch
    from safetensors.torch import load_file

    from lotune.model.fully_tuned import FullyTunedModel

    tensors = load_file(folder / "adapter_model.safetensors")
    model = FullyTunedModel(base, config, torch.float32 if trainable else None)
    for name, weight in base.named_parameters():
        if name in tensors:  # a name that is missing is reported with all that do not fit
            weight.data.copy_(tensors[name])
    return model.requires_grad_(trainable)


def _tensors(model: FullyTunedModel) -> Mapping[str, Tensor]:
    return model.tuned_weights()


def _learning_rate(settings: FullSettings, base: PreTrainedModel) -> tuple[float, str]:
    config = base.config.get_text_config()
    rate = lora_rate(config.hidden_size, config.model_type, REFERENCE_ALPHA) / LORA_RATE_RATIO
    return rate, f"all weights of {config.model_type} of width {config.hidden_size:,}"


def _count_on_shape(settings: FullSettings, shape: ModelShape) -> int:
    return shape.total


def _parameter_count(settings: FullSettings, base: PreTrainedModel) -> int:
    from lotune.model.loading import count_parameters

    return count_parameters(base)


FULL = Method(
    FullSettings,
    _configure,
    _parameter_count,
    mergeable=True,
    identity_at_init=True,
    saved_values=lambda config: {},
    learning_rate=_learning_rate,
    count_on_shape=_count_on_shape,
    trains_base=True,
    add=_add,
    load=_load,
    tensors=_tensors,
)
