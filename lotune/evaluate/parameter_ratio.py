"""The parameter ratio, measured: what an adapter file holds against what the base has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lotune.contest.scores import BASE_TOTALS
from lotune.errors import ModelError, SettingsError
from lotune.model.settings import ADAPTER_CONFIG


@dataclass(frozen=True)
class AdapterTensor:
    """A tensor of an adapter file; `counted` is false for an untrained copy of the base's weights."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    counted: bool = True

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class ParameterCount:
    """What was trained, tensor by tensor."""

    tensors: tuple[AdapterTensor, ...]

    @property
    def trainable(self) -> int:
        """How many parameters were trained."""
        return sum(tensor.size for tensor in self.tensors if tensor.counted)


def count_adapter(folder: Path) -> ParameterCount:
    """What a saved adapter trained, from the names and shapes in its adapter_model.safetensors; no weights are loaded.

    Embeddings and output layers that PEFT stores beside an adapter without having trained them (they are not named in
    `modules_to_save`) are listed, but not counted.
    Raises: ModelError where there is no such file, it cannot be read, or it holds no trained tensor.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(str(folder), "holds no adapter_model.safetensors", "a saved adapter")
    from safetensors import SafetensorError, safe_open

    trained = _modules_to_save(folder)
    try:
        with safe_open(str(path), framework="numpy") as file:
            tensors = tuple(_tensor(name, file.get_slice(name), trained) for name in sorted(file.keys()))
    except SafetensorError as error:
        raise ModelError(str(path), f"cannot be read: {error}", "safetensors", "save the adapter again") from None
    if not any(tensor.counted for tensor in tensors):
        raise ModelError(str(path), "holds no trained tensor", "an adapter's tensors")
    return ParameterCount(tensors)


def ratio(trainable: int, total: int, convention: str = "measured") -> float:
    """Trained parameters over the base's (0 to 1 for an adapter), the divisor taken by the named convention.

    Raises: SettingsError for an unknown convention, or where the divisor is not positive.

    >>> round(ratio(3_407_872, 8_030_261_248, "llama3-8b"), 9)
    0.000424393
    """
    divisor = ratio_denominator(total, convention)
    if divisor < 1:
        raise SettingsError("score.base_total", f"the base has {divisor} parameters", "one at least")
    return trainable / divisor


def ratio_denominator(total: int, convention: str) -> int:
    """The number of parameters that the convention divides by.

    Raises: SettingsError for an unknown convention.

    >>> ratio_denominator(8_030_261_248, "llama3-8b"), ratio_denominator(8_030_261_248, "measured")
    (8030000000, 8030261248)
    """
    if convention not in BASE_TOTALS:
        raise SettingsError("score.base_total", f"{convention!r} is not known", f"one of {', '.join(BASE_TOTALS)}")
    return BASE_TOTALS[convention] or total


_UNTRAINED_COPIES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings", "base_layer")


def _tensor(name: str, content: Any, trained: frozenset[str]) -> AdapterTensor:
    module = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    counted = module not in _UNTRAINED_COPIES or module in trained
    return AdapterTensor(name, tuple(content.get_shape()), str(content.get_dtype()), counted)


def _modules_to_save(folder: Path) -> frozenset[str]:
    """Last names of the modules that were trained whole.

    Raises: ModelError where adapter_config.json is damaged.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return frozenset()
    try:
        named = json.loads(path.read_bytes()).get("modules_to_save") or []
    except (ValueError, AttributeError):
        raise ModelError(str(path), "is damaged", "an adapter's configuration", "save the adapter again") from None
    return frozenset(str(name).rpartition(".")[2] for name in named)
