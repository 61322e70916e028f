"""A model whose own weights are tuned, with the part of PEFT's interface that lotune uses of an adapted model.

The weights before the tuning stay beside it, so that the model can answer as its base at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lotune.model.settings import ADAPTER_CONFIG

FULL = "FULL"
"""The `peft_type` in adapter_config.json of weights that were tuned in full, which PEFT has no name for."""
_MARK = "lotune_fully_tuned"
"""Attribute of a transformers model whose weights are not those that it was loaded with."""


@dataclass
class FullTuningConfig:
    """The content of adapter_config.json, as PEFT's configurations have it."""

    base_model_name_or_path: str | None = None
    inference_mode: bool = False
    task_type: str = "CAUSAL_LM"
    peft_type: str = FULL

    is_prompt_learning = False

    def save_pretrained(self, folder: str) -> None:
        """Write adapter_config.json into a folder."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        (Path(folder) / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


class FullyTunedModel(nn.Module):
    """A model and the weights that it was loaded with.

    Its parameters are the model's: copies of the weights, in float32 if they are to be trained.
    """

    def __init__(self, model: PreTrainedModel, config: FullTuningConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.base_model = model
        self.peft_config = {"default": config}
        self._disable_adapters = False
        self._base_weights = {name: weight.data for name, weight in model.named_parameters()}
        for weight in model.parameters():
            weight.data = weight.data.to(dtype or weight.dtype, copy=True)
        vars(model)[_MARK] = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":  # not set yet
                raise
            return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns."""
        return self.base_model(*args, **kwargs)

    @property
    def active_adapters(self) -> list[str]:
        """The name of the tuned weights in `peft_config`."""
        return ["default"]

    @property
    def disable_adapters(self) -> bool:
        """Whether the model has the weights of its base for now."""
        return self._disable_adapters

    def get_base_model(self) -> PreTrainedModel:
        """Return the transformers model, whose weights are the tuned ones."""
        return self.base_model

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Give the model the weights of its base within the block; no parameter stops or begins to train."""
        tuned = {name: weight.data for name, weight in self.base_model.named_parameters()}
        try:
            self._set_weights(self._base_weights)
            self._disable_adapters = True
            yield
        finally:
            self._disable_adapters = False
            self._set_weights(tuned)

    def tuned_weights(self) -> dict[str, Tensor]:
        """Return the weights by their names in the transformers model; those that are tied once."""
        return {name: weight.detach() for name, weight in self.base_model.named_parameters()}

    def merge_and_unload(self, safe_merge: bool = False) -> PreTrainedModel:
        """Return the transformers model with the tuned weights. Raises: ValueError if one is not finite and safe."""
        faults = (name for name, weight in self.tuned_weights().items() if not bool(weight.isfinite().all()))
        if safe_merge and (fault := next(faults, None)) is not None:
            raise ValueError(f"{fault} is not finite")
        del vars(self.base_model)[_MARK]
        return self.base_model

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self.base_model.named_parameters():
            weight.data = weights[name]


def is_fully_tuned(model: nn.Module) -> bool:
    """Return whether a transformers model, or one around it, has other weights than those of its base.

    >>> is_fully_tuned(nn.Linear(3, 2))
    False
    """
    return any(_MARK in vars(module) for module in model.modules())
