"""Trained embeddings that stand before each prompt as tokens with ids of their own, beyond the vocabulary.

So all that works on token ids works on them, too: packed rows share them, caches hold them, and a row is a list of ids.

B: rows. T: tokens of a row. D: hidden size. N: virtual tokens. V: rows of the base's embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


class VirtualTokenEmbedding(nn.Module):
    """The base's embedding, with ids V to V + N - 1 for the virtual tokens.

    The weights (N, D) of the virtual tokens belong to `prompt`, which is no submodule here: it is PEFT's.
    """

    def __init__(self, words: nn.Embedding, prompt: nn.Embedding) -> None:
        super().__init__()
        self.words = words
        self._prompt = (prompt,)

    @property
    def virtual_ids(self) -> tuple[int, ...]:
        """The ids to put before each prompt."""
        first = self.words.num_embeddings
        return tuple(range(first, first + self._prompt[0].num_embeddings))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return embeddings (B, T, D) of ids (B, T) in the base's dtype."""
        virtual = input_ids >= self.words.num_embeddings  # (B, T)
        words: Tensor = self.words(input_ids.masked_fill(virtual, 0))  # (B, T, D)
        numbers = (input_ids - self.words.num_embeddings).clamp(min=0)
        prompt = embedding(numbers, self._prompt[0].weight).to(words.dtype)  # (B, T, D)
        return torch.where(virtual[..., None], prompt, words)


def base_embedding(base: Any) -> nn.Embedding:
    """Return the input embedding of a base, without virtual tokens."""
    module = base.get_input_embeddings()
    words: nn.Embedding = module.words if isinstance(module, VirtualTokenEmbedding) else module
    return words


def attach_virtual_tokens(model: Any) -> None:
    """Let the base inside a PEFT model that learns a prompt take the ids of the prompt's virtual tokens."""
    base = model.get_base_model()
    base.set_input_embeddings(VirtualTokenEmbedding(base_embedding(base), model.prompt_encoder["default"].embedding))
