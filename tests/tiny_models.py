"""New models of a few thousand weights, of any architecture that transformers has."""

from __future__ import annotations

from typing import Any


def causal_lm(config_class: str, **settings: Any) -> Any:
    """Return a new causal language model; `settings` are those of its configuration class in transformers."""
    import transformers

    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**settings))


def with_random_adapter(model: Any, std: float) -> Any:
    """Return the model with random weights in its adapter, the same each time."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model
