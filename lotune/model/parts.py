"""The parts of a causal transformers model, whatever their names in an architecture, and its virtual tokens."""

from __future__ import annotations

from typing import Any


def decoder_of(model: Any) -> Any:
    """Return the module that computes hidden states of tokens."""
    decoder = model.get_decoder()
    # transformers returns the output head if a model names it `decoder`, as ModernBERT does.
    return model.base_model if decoder is model.get_output_embeddings() else decoder


def virtual_ids(model: Any) -> tuple[int, ...]:
    """Return the ids of the virtual tokens that a model's adapter puts before each prompt, if any."""
    get = getattr(model, "get_input_embeddings", None)
    try:
        embedding = None if get is None else get()
    except NotImplementedError:  # an architecture whose embedding transformers does not find
        return ()
    ids: tuple[int, ...] = getattr(embedding, "virtual_ids", ())
    return ids


def token_reader(model: Any) -> Any:
    """Return the module to call with token ids that begin with the virtual ones."""
    # PEFT's wrapper would prepend the virtual tokens a second time, so the base inside it is called.
    return model.get_base_model() if virtual_ids(model) and hasattr(model, "get_base_model") else model
