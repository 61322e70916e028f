"""Trained embeddings before each prompt, as virtual tokens with ids of their own beyond the vocabulary.

Everything that works on token ids works on them, too: rows are lists of ids, packed rows share them, caches hold them.

B: rows. T: tokens of a row. D: hidden size. N: virtual tokens. V: rows of the base's embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


class VirtualTokenEmbedding(nn.Module):
    """The base's embedding, with ids V to V + N - 1 for the virtual tokens.

    The weights (N, D) of the virtual tokens belong to `prompt`, which stays a submodule of PEFT's model only.
    """

    def __init__(self, base_embedding: nn.Embedding, prompt: nn.Embedding) -> None:
        super().__init__()
        self.base_embedding = base_embedding
        self._prompt = (prompt,)  # in a tuple, so that torch does not register it as a submodule a second time

    @property
    def virtual_ids(self) -> tuple[int, ...]:
        """The ids to put before each prompt."""
        first = self.base_embedding.num_embeddings
        return tuple(range(first, first + self._prompt[0].num_embeddings))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return embeddings (B, T, D) of ids (B, T) in the base's dtype."""
        virtual = input_ids >= self.base_embedding.num_embeddings  # (B, T)
        words: Tensor = self.base_embedding(input_ids.masked_fill(virtual, 0))  # (B, T, D)
        # Both embeddings are computed for all tokens, so ids that belong to the other one are clamped to a valid id.
        indices = (input_ids - self.base_embedding.num_embeddings).clamp(min=0)  # (B, T)
        prompt = embedding(indices, self._prompt[0].weight).to(words.dtype)  # (B, T, D)
        return torch.where(virtual[..., None], prompt, words)


def base_embedding(base: Any) -> nn.Embedding:
    """Return the input embedding of a base, without virtual tokens."""
    module = base.get_input_embeddings()
    embeddings: nn.Embedding = module.base_embedding if isinstance(module, VirtualTokenEmbedding) else module
    return embeddings


def attach_virtual_tokens(model: Any) -> None:
    """Make the base inside a prompt-learning PEFT model accept the ids of the prompt's virtual tokens."""
    base = model.get_base_model()
    base.set_input_embeddings(VirtualTokenEmbedding(base_embedding(base), model.prompt_encoder["default"].embedding))
