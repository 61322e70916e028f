"""Models with fresh weights: a Llama of a given shape, or the architecture of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.errors import ModelError
from lotune.model.loading import (
    DEFAULT_ATTENTION,
    fuse_activations,
    loading_errors_as_model_errors,
    one_line,
    silence_transformers,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel


def new_llama(shape: Mapping[str, Any]) -> LlamaForCausalLM:
    """Return a Llama model with fresh, trainable float32 weights, drawn from torch's current random state.

    `shape` has the names of LlamaConfig (vocab_size, hidden_size, num_hidden_layers, ...) and `rope_theta`. Under
    `torch.device("meta")` the weights take no memory, which suffices to count them.

    Raises: ModelError for a name that LlamaConfig lacks, or for sizes that do not fit together.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    unknown = sorted(set(shape) - set(LlamaConfig().to_dict()) - {"rope_theta"})
    if unknown:
        raise ModelError("model shape", f"unknown names: {', '.join(unknown)}", "names of LlamaConfig")
    values = dict(shape)
    if "rope_theta" in values:
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": float(values.pop("rope_theta"))}
    try:
        config = LlamaConfig(**values)
    except Exception as error:  # the validation of a configuration raises errors of several libraries
        raise ModelError("model shape", one_line(error)) from None
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)


def new_model_from_config(path: Path, changes: Mapping[str, Any]) -> PreTrainedModel:
    """Return a model with the configuration of a config.json or its folder, and fresh, trainable float32 weights.

    The weights are drawn from torch's current random state; `changes` override values of the configuration.

    Raises: ModelError if transformers does not know the architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with silence_transformers(), loading_errors_as_model_errors(str(path), False):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        for name, value in changes.items():
            setattr(config, name, value)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, dtype=torch.float32, **DEFAULT_ATTENTION
        )
    fuse_activations(model)
    return model
