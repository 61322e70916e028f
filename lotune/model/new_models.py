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


def _config_of(content: Mapping[str, Any]) -> Any:
    """Return the configuration with the content of a config.json. Raises: ModelError."""
    from transformers import CONFIG_MAPPING

    kind, where = str(content.get("model_type")), "pretrain.architecture"
    if kind not in CONFIG_MAPPING:
        raise ModelError(where, f"has the model_type {kind}", "one that transformers knows, such as gpt2")
    config = CONFIG_MAPPING[kind]
    if unknown := sorted(set(content) - set(config().to_dict())):
        raise ModelError(where, f"unknown names: {', '.join(unknown)}", f"names of {config.__name__}")
    return config(**{name: value for name, value in content.items() if name != "model_type"})


def new_model_from_config(source: Path | Mapping[str, Any], changes: Mapping[str, Any]) -> PreTrainedModel:
    """Return a model with the configuration of a config.json, and fresh, trainable float32 weights.

    `source` is the file, its folder, or its content. The weights are drawn from torch's current random state; `changes`
    override values of the configuration.

    Raises: ModelError if transformers does not know the architecture, or for a name that its configuration lacks.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = str(source) if isinstance(source, Path) else "pretrain.architecture"
    with silence_transformers(), loading_errors_as_model_errors(where, False):
        if isinstance(source, Path):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        else:
            config = _config_of(source)
        for name, value in changes.items():
            setattr(config, name, value)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, dtype=torch.float32, **DEFAULT_ATTENTION
        )
    fuse_activations(model)
    return model
