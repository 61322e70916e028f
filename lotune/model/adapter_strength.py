"""Scale the change that an adapter makes, in a loaded model or in a saved adapter, for groups of layers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lotune.errors import ModelError
from lotune.model.checkpoints import ADAPTER_WEIGHTS, atomic_folder, read_adapter_config, sort_metadata
from lotune.model.methods.registry import METHODS, method_name


def strength_factors(config: Any, names: Iterable[str], strengths: Sequence[float]) -> Mapping[str, float]:
    """Return the factor of each tensor of an adapter to which its change of the model is proportional, by name.

    `config` is PEFT's. The adapted layers are divided into as many groups as there are `strengths`, neighbours together
    and the first layers first; a tensor outside the layers, as of the output head, belongs to the last group.

    Raises: ModelError if the change is proportional to no tensor, or if there are fewer layers than groups.
    """
    name = method_name(config)
    is_proportional = METHODS[name].proportional
    scaled = [tensor for tensor in names if is_proportional is not None and is_proportional(config, tensor)]
    if not scaled:
        raise ModelError(
            "retention.strength", f"{name} adapters of this kind have no strength", "LoRA without DoRA", "1"
        )
    layers = sorted({layer for layer in map(_layer, scaled) if layer is not None})
    if len(strengths) > max(1, len(layers)):
        found = f"{len(strengths)} groups, and the adapter changes {len(layers)} layers"
        raise ModelError("retention.strength_groups", found, f"{max(1, len(layers))} groups at most")
    group: dict[int | None, int] = {
        layer: position * len(strengths) // len(layers) for position, layer in enumerate(layers)
    }
    return {tensor: strengths[group.get(_layer(tensor), len(strengths) - 1)] for tensor in scaled}


def _layer(name: str) -> int | None:
    """Return the number of the layer in a tensor's name, None outside the layers."""
    number = re.search(r"\.(\d+)\.", name)
    return int(number[1]) if number else None


@contextmanager
def at_strengths(model: Any, strengths: Sequence[float]) -> Iterator[None]:
    """Return a context in which the adapter of a PEFT model has these strengths.

    Raises: ModelError as `strength_factors`.
    """
    parameters = dict(model.named_parameters())
    factors = strength_factors(model.peft_config["default"], parameters, strengths)
    saved = {name: parameters[name].detach().clone() for name in factors}
    try:
        with torch.no_grad():
            for name, factor in factors.items():
                parameters[name].mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in saved.items():
                parameters[name].copy_(tensor)  # dividing by the factor would round


def save_at_strengths(source: Path, target: Path, strengths: Sequence[float]) -> None:
    """Write a copy of a saved adapter with these strengths, which PEFT loads like any other.

    Raises: ModelError as `strength_factors`, or if the source is damaged.
    """
    config = read_adapter_config(source)
    with safe_open(source / ADAPTER_WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    factors = strength_factors(config, tensors, strengths)
    scaled = {name: tensor * factors.get(name, 1.0) for name, tensor in tensors.items()}
    with atomic_folder(target, sum(file.stat().st_size for file in source.iterdir())) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        save_file(scaled, temporary / ADAPTER_WEIGHTS, metadata=metadata)
        sort_metadata(temporary / ADAPTER_WEIGHTS)
