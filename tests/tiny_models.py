"""New models of a few thousand weights, of any architecture that transformers has."""

from __future__ import annotations

from typing import Any


def causal_lm(config_class: str, **settings: Any) -> Any:
    """Return a new causal language model; `settings` are those of its configuration class in transformers."""
    import transformers

    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**settings))
