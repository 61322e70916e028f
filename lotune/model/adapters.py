"""Adapters: the few parameters that are trained, added to a frozen base through PEFT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lotune.errors import ModelError
from lotune.model.fully_tuned import FullyTunedModel, is_fully_tuned
from lotune.model.methods.registry import METHODS
from lotune.model.methods.virtual_tokens import VirtualTokenEmbedding
from lotune.model.settings import AdapterSettings

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(
    base_model: PreTrainedModel, settings: AdapterSettings, seed: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> PeftModel:
    """Return the model with a fresh float32 adapter, whose parameters alone are trainable; equal seeds, equal weights.

    The adapter is put into `base_model` itself, which is frozen. `tokenizer` encodes texts in the settings.

    Raises: ModelError if the settings do not fit the model, PEFT refuses them, or the model already has an adapter.
    """
    if has_adapter(base_model):
        raise ModelError("model", "already has an adapter", "a base model", "load the base again")
    method = METHODS[settings.method]
    config = method.configure(settings, base_model)
    base_model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model: Any = method.add(base_model, config)
        except ValueError as error:
            values = settings.model_dump(exclude_unset=True, exclude={"force_base", "init_from"})
            found = f"PEFT refuses {values or settings.method}: {' '.join(str(error).split())[:240]}"
            raise ModelError("adapter", found, remedy="other settings, or another adapter.method") from None
        method.initialise(model, settings, tokenizer)
    method.attach(model)
    adapted: PeftModel = model.eval()
    return adapted


@contextmanager
def base_alone(model: PeftModel) -> Iterator[nn.Module]:
    """Return a context with a model that computes as the base of an adapted model does without its adapter.

    Its weights are the model's own, so it takes no memory. The adapter is back when the context ends, and no parameter
    stops or begins to train, as with PEFT's own `disable_adapter`.
    """
    if isinstance(model, FullyTunedModel):
        with model.disable_adapter():
            yield model
        return
    base: Any = model.get_base_model()
    embedding = base.get_input_embeddings()
    if not isinstance(embedding, VirtualTokenEmbedding):
        disabled = [module for module in model.modules() if getattr(module, "_disable_adapters", None) is False]
        try:
            for module in disabled:
                vars(module)["_disable_adapters"] = True
            yield model
        finally:
            for module in disabled:
                vars(module)["_disable_adapters"] = False
        return
    # PEFT's switch leaves the embedding of the virtual tokens in the base, so that they would still stand in front.
    try:
        base.set_input_embeddings(embedding.base_embedding)
        yield base
    finally:
        base.set_input_embeddings(embedding)


def has_adapter(model: nn.Module) -> bool:
    """Return whether a model carries an adapter beside its weights.

    >>> has_adapter(nn.Linear(3, 2))
    False
    """
    if is_fully_tuned(model):
        return True
    # Without PEFT there is no adapter, and importing it takes a second.
    if "peft" not in sys.modules:
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer | VirtualTokenEmbedding) for module in model.modules())


def trainable_count(model: nn.Module) -> int:
    """Return the number of trainable parameters.

    >>> trainable_count(nn.Linear(3, 2).requires_grad_(False))
    0
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
