"""Initial model of a pre-training: from a folder, from a config.json, or a Llama of given dimensions."""

from __future__ import annotations

from typing import Any

from lotune.data.tokenizer_training import MAX_EMBEDDING_RATIO
from lotune.errors import SettingsError
from lotune.train.settings import PretrainSettings


def meta_model_of(settings: PretrainSettings) -> Any:
    """Return the model without its weights, on the meta device."""
    import torch

    from lotune.model.loading import meta_model
    from lotune.model.new_models import new_llama, new_model_from_config
    from lotune.model.settings import BaseSettings

    if settings.init_from is not None:
        return meta_model(BaseSettings(model=str(settings.init_from)))
    # Shapes without storage: sizes are estimated before anything is allocated.
    with torch.device("meta"):
        if config := settings.config_file or settings.architecture:
            return new_model_from_config(config, {})
        return new_llama(settings.llama_config.model_dump())


def initial_model(settings: PretrainSettings, tokenizer: Any) -> Any:
    """Return the initial model, in float32 on the CPU.

    Raises: SettingsError or ModelError if model and tokeniser do not fit each other.
    """
    from lotune.data.tokenizer_training import check_tokenizer
    from lotune.model.loading import load_model
    from lotune.model.new_models import new_llama, new_model_from_config
    from lotune.model.settings import BaseSettings

    if settings.init_from is not None:
        base = BaseSettings(model=str(settings.init_from), dtype="float32")
        return load_model(base, "cpu").model.requires_grad_(True)
    # A new config defaults to the special ids of its architecture's own tokeniser.
    special_ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if config := settings.config_file or settings.architecture:
        model = new_model_from_config(config, special_ids)
        name = "pretrain.architecture" if settings.config_file is None else str(settings.config_file)
        check_tokenizer(tokenizer, model.config.vocab_size, name)
        return model
    _require_used_vocabulary(settings.llama_config.vocab_size, len(tokenizer))
    return new_llama(settings.llama_config.model_dump() | special_ids)


def _require_used_vocabulary(vocab_size: int, tokens: int) -> None:
    """Raise SettingsError if the vocabulary is more than MAX_EMBEDDING_RATIO times the tokeniser's tokens."""
    # A short text yields fewer tokens than requested. Tuning would refuse a base with so many unused rows.
    if vocab_size > MAX_EMBEDDING_RATIO * tokens:
        key, found = "pretrain.llama_config.vocab_size", f"is {vocab_size}, but the tokeniser has {tokens} tokens"
        raise SettingsError(key, found, f"{MAX_EMBEDDING_RATIO} times the tokens at most", f"{key}={tokens}")


POSITION_EMBEDDINGS = ("wpe", "embed_positions", "position_embeddings")
"""Names of the modules with learnt position embeddings."""


def parameter_lines(model: Any) -> str:
    """Return the number of parameters in both conventions: of all, and without position embeddings and biases.

    The second is that of nanoGPT and of courses based on it, whose layers have no biases.
    """
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    left_out = [name for name in counts if name.endswith(".bias") or set(POSITION_EMBEDDINGS) & set(name.split("."))]
    total = sum(counts.values())
    without = total - sum(counts[name] for name in left_out)
    return f"{total:,} parameters" + (f" ({without:,} without position embeddings and biases)" if left_out else "")


def context_of(settings: PretrainSettings) -> int:
    """Return the context length of the model, in tokens."""
    from lotune.model.loading import context_length

    return context_length(meta_model_of(settings))
