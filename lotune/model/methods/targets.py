"""The linear modules of a model that an adapter changes, looked up by the names in the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lotune.model.loading import count_parameters
from lotune.model.shapes import ModelShape, Shape

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
    return {name: linear[name] for name in shape_of_model(model).targets(target_modules)}


def target_shapes(model: nn.Module, target_modules: str | Sequence[str]) -> list[Shape]:
    """Return (inputs, outputs) of every targeted module; the model may be on the meta device."""
    return shape_of_model(model).target_shapes(target_modules)


def shape_of_model(model: nn.Module) -> ModelShape:
    """Return the shape of a model, which may be on the meta device."""
    linear = _linear_modules(model)
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return ModelShape(
        {name: _shape(module) for name, module in linear.items()},
        count_parameters(model),
        _width(model),
        next((name for name, module in linear.items() if module is head), None),
        frozenset(name for name, module in linear.items() if id(module.weight) in embeddings),
        frozenset(name for name in linear if _is_read(model, name)),
    )


def _linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def _is_read(model: nn.Module, name: str) -> bool:
    """Return whether a model reads the weights of a linear module instead of calling it."""
    return getattr(getattr(model, "config", None), "model_type", "") in _STATE_SPACE and name.endswith(_READ)


def short_names(model: nn.Module, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the last parts of the names if they match exactly these modules, else the full names."""
    suffixes = {name.rpartition(".")[2] for name in modules}
    matches = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in suffixes}
    return sorted(suffixes) if matches == set(modules) else list(modules)


def _shape(module: nn.Module) -> Shape:
    # Not from the weight: a library of quantisation packs several numbers into one.
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, Conv1D)
    return module.nx, module.nf


def _width(model: nn.Module) -> int | None:
    """Return the size of the embedding of a token; None if the model has no embedding, or one of its own kind."""
    if not isinstance(model, PreTrainedModel):
        return None
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return embedding.embedding_dim if isinstance(embedding, nn.Embedding) else None
