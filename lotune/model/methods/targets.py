"""The linear modules that an adapter changes, looked up by the names in the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lotune.errors import ModelError

MINDFORMERS_NAMES: Mapping[str, str] = {
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "self_attn": "attention",
    "mlp": "feed_forward",
}
"""MindFormers' name of each part of a Llama-like model, by Hugging Face's name."""

ALL_LINEAR = "all-linear"

_STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
"""Types of model (`model_type` in config.json) with Mamba layers."""
_READ = ("out_proj", "dt_proj")
"""Linear modules that a Mamba layer never calls, as its kernels read the weights: an adapter would have no effect."""


def find_targets(model: nn.Module, target_modules: str | Sequence[str]) -> dict[str, nn.Module]:
    """Return the linear modules that match `target_modules`, by full name, in the model's order.

    A list holds module names (q_proj) or ends of full names (self_attn.q_proj). A text is a regular expression for the
    full name, or "all-linear" for every linear module except the output head and those that a Mamba layer never calls.
    MindFormers' names (wq, attention.wo) match, too.

    Raises: ModelError for a name or pattern that matches nothing, with the names that exist, or that matches a module
    that an adapter cannot change.
    """
    linear = _linear_modules(model)
    if target_modules == ALL_LINEAR:
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        return {name: module for name, module in linear.items() if module is not head and not _is_read(model, name)}
    targets = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    match = _matches_pattern if isinstance(target_modules, str) else _matches_name
    hits = {target: [name for name in linear if match(target, name)] for target in targets}
    unmatched = [target for target, names in hits.items() if not names]
    if unmatched or not targets:
        suffixes = dict.fromkeys(name.rpartition(".")[2] for name in linear)
        found = f"{', '.join(map(repr, unmatched)) or 'an empty list'} matches no linear module"
        raise ModelError("adapter.target_modules", found, f"of {', '.join(suffixes)}", f"or {ALL_LINEAR}")
    chosen = {name for names in hits.values() for name in names}
    _refuse_tied(model, linear, chosen)
    _refuse_read(model, chosen)
    return {name: module for name, module in linear.items() if name in chosen}


def target_shapes(model: nn.Module, target_modules: str | Sequence[str]) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every targeted module; the model may be on the meta device."""
    return [_shape(module) for module in find_targets(model, target_modules).values()]


def mindformers_name(name: str) -> str:
    """Return a module's full name with MindFormers' names of its parts.

    >>> mindformers_name("model.layers.0.self_attn.q_proj")
    'model.layers.0.attention.wq'
    """
    return ".".join(MINDFORMERS_NAMES.get(part, part) for part in name.split("."))


def _linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def _is_read(model: nn.Module, name: str) -> bool:
    """Return whether a model reads the weights of a linear module instead of calling it."""
    return getattr(getattr(model, "config", None), "model_type", "") in _STATE_SPACE and name.endswith(_READ)


def _refuse_read(model: nn.Module, chosen: set[str]) -> None:
    """Raise ModelError for modules that are never called, where an adapter would have no effect."""
    read = sorted(name for name in chosen if _is_read(model, name))
    if read:
        found = f"the kernels of a Mamba layer read the weights of {read[0]}, so an adapter would have no effect"
        raise ModelError("adapter.target_modules", found, "modules that are called, such as in_proj", ALL_LINEAR)


def _matches_pattern(pattern: str, name: str) -> bool:
    try:
        return any(re.fullmatch(pattern, alias) for alias in (name, mindformers_name(name)))
    except re.error as error:
        found = f"{pattern!r} is not a pattern: {error}"
        raise ModelError("adapter.target_modules", found, "a regular expression, as in .*q_proj|.*v_proj") from None


def _matches_name(target: str, name: str) -> bool:
    return any(alias == target or alias.endswith(f".{target}") for alias in (name, mindformers_name(name)))


def short_names(model: nn.Module, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the last parts of the names if they match exactly these modules, else the full names."""
    suffixes = {name.rpartition(".")[2] for name in modules}
    matches = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in suffixes}
    return sorted(suffixes) if matches == set(modules) else list(modules)


def _refuse_tied(model: nn.Module, linear: Mapping[str, nn.Module], chosen: set[str]) -> None:
    """Raise ModelError for an output head tied to the embedding, which merging would change, too."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tied = [name for name in linear if name in chosen and id(_weight(linear[name])) in embeddings]
    if tied:
        raise ModelError(
            "adapter.target_modules", f"{tied[0]} shares its weights with the embedding", remedy=ALL_LINEAR
        )


def _shape(module: nn.Module) -> tuple[int, int]:
    outputs, inputs = _weight(module).shape
    return (outputs, inputs) if isinstance(module, Conv1D) else (inputs, outputs)


def _weight(module: nn.Module) -> Any:
    return module.weight
