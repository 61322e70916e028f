"""The parts of a causal model of transformers, whatever an architecture calls them, and the tokens that it adds."""

from __future__ import annotations

from typing import Any


def decoder_of(model: Any) -> Any:
    """Return the module that makes hidden states of tokens.

    Where a model names its output head `decoder`, as ModernBERT does, transformers gives the head instead.
    """
    decoder = model.get_decoder()
    return model.base_model if decoder is model.get_output_embeddings() else decoder


def virtual_ids(model: Any) -> tuple[int, ...]:
    """Return the ids of the tokens that a model's adapter puts before each prompt; empty where it puts none."""
    get = getattr(model, "get_input_embeddings", None)
    try:
        embedding = None if get is None else get()
    except NotImplementedError:  # an architecture whose embedding transformers does not find
        return ()
    ids: tuple[int, ...] = getattr(embedding, "virtual_ids", ())
    return ids


def token_reader(model: Any) -> Any:
    """Return the module to call with token ids that begin with the virtual ones.

    PEFT's wrapper would put the virtual tokens before them a second time, so it is the base inside.
    """
    return model.get_base_model() if virtual_ids(model) and hasattr(model, "get_base_model") else model
