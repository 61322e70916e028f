"""The parts of a causal model of transformers, whatever an architecture calls them."""

from __future__ import annotations

from typing import Any


def decoder_of(model: Any) -> Any:
    """Return the module that makes hidden states of tokens.

    Where a model names its output head `decoder`, as ModernBERT does, transformers gives the head instead.
    """
    decoder = model.get_decoder()
    return model.base_model if decoder is model.get_output_embeddings() else decoder
