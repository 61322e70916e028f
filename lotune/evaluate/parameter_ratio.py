"""The parameter ratio: trained parameters in an adapter file over parameters of the base.

The count is read from the saved tensors: a configuration can name a rank that was not trained, and two configurations
can have the same count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lotune.errors import ModelError, SettingsError
from lotune.model.methods.registry import METHODS
from lotune.model.settings import ADAPTER_CONFIG

# The contest divides by totals rounded to millions (Llama-3-8B has 8,030,261,248 parameters), and the published ratios
# can only be reproduced with these.
BASE_TOTALS: dict[str, int | None] = {"measured": None, "llama3-8b": 8_030_000_000, "internlm-7b": 7_321_000_000}
"""Divisor of the parameter ratio by name of the convention; None stands for the base's own number of parameters."""


@dataclass(frozen=True)
class AdapterTensor:
    """A tensor of an adapter file; `counted` is false for an untrained copy of the base's weights."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    counted: bool = True

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class ParameterCount:
    """The tensors of an adapter file."""

    tensors: tuple[AdapterTensor, ...]

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(tensor.size for tensor in self.tensors if tensor.counted)


def count_adapter(folder: Path) -> ParameterCount:
    """Return the tensors of a saved adapter, from the names and shapes in its adapter_model.safetensors.

    Embeddings and output layers that PEFT stores beside an adapter without having trained them (they are not named in
    `modules_to_save`) are listed, but not counted.
    Raises: ModelError if the file is missing, cannot be read, or holds no trained tensor.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(str(folder), "holds no adapter_model.safetensors", "a saved adapter")
    from safetensors import SafetensorError, safe_open

    trained = _fully_trained(folder)
    try:
        # `get_slice` reads the header only: no weights are loaded, and bfloat16, which NumPy lacks, is no obstacle.
        with safe_open(str(path), framework="numpy") as file:
            tensors = tuple(_tensor(name, file.get_slice(name), trained) for name in sorted(file.keys()))
    except SafetensorError as error:
        raise ModelError(str(path), f"cannot be read: {error}", "safetensors", "save the adapter again") from None
    if not any(tensor.counted for tensor in tensors):
        raise ModelError(str(path), "holds no trained tensor", "an adapter's tensors")
    return ParameterCount(tensors)


def ratio(trainable: int, total: int, convention: str = "measured") -> float:
    """Return trained parameters over those of the base, by the named convention; 0 to 1 for an adapter.

    Raises: SettingsError for an unknown convention, or a divisor that is not positive.

    >>> round(ratio(3_407_872, 8_030_261_248, "llama3-8b"), 9)
    0.000424393
    """
    divisor = ratio_denominator(total, convention)
    if divisor < 1:
        raise SettingsError("score.base_total", f"the base has {divisor} parameters", "at least one")
    return trainable / divisor


def ratio_denominator(total: int, convention: str) -> int:
    """Return the number of parameters that a convention divides by.

    Raises: SettingsError for an unknown convention.

    >>> ratio_denominator(8_030_261_248, "llama3-8b"), ratio_denominator(8_030_261_248, "measured")
    (8030000000, 8030261248)
    """
    if convention not in BASE_TOTALS:
        raise SettingsError("score.base_total", f"{convention!r} is not known", f"one of {', '.join(BASE_TOTALS)}")
    return BASE_TOTALS[convention] or total


# PEFT saves a copy of the embeddings if, say, the vocabulary was resized. The names are those of Llama, GPT-2, GPT-NeoX
# and BLOOM; `base_layer` is the original weight of a module that PEFT wraps.
_UNTRAINED_COPIES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings", "base_layer")


def _tensor(name: str, content: Any, trained: frozenset[str] | None) -> AdapterTensor:
    module = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    counted = trained is None or module not in _UNTRAINED_COPIES or module in trained
    return AdapterTensor(name, tuple(content.get_shape()), str(content.get_dtype()), counted)


def _fully_trained(folder: Path) -> frozenset[str] | None:
    """Return the last names of the modules that were trained in full; None if all were.

    Raises: ModelError if adapter_config.json is damaged.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return frozenset()
    try:
        config = json.loads(path.read_bytes())
        method = METHODS.get(str(config.get("peft_type")).lower())
        if method is not None and method.trains_base:
            return None
        named = config.get("modules_to_save") or []
    except (ValueError, AttributeError):
        raise ModelError(str(path), "is damaged", "an adapter's configuration", "save the adapter again") from None
    return frozenset(str(name).rpartition(".")[2] for name in named)
