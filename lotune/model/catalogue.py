"""The catalogue of base models: the sizes of public ones, from their config.json, so that none has to be at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lotune.model.shapes import ModelShape, shape_of_config


@dataclass(frozen=True)
class Catalogued:
    """A base model: what its config.json says about its shape, and its names on the Hugging Face hub."""

    config: Mapping[str, Any]
    hub_names: tuple[str, ...]

    @property
    def shape(self) -> ModelShape:
        """Linear layers and number of parameters."""
        shape = shape_of_config(self.config)
        assert shape is not None  # the table holds known architectures only
        return shape


def _base(
    model_type: str, layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int, *names: str,
    **more: Any,
) -> Catalogued:  # fmt: skip
    """Return an entry; the order of the numbers is that of the table's heading."""
    sizes = {
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
    }  # fmt: skip
    return Catalogued({**sizes, **more}, names)


def _pair(name: str, ending: str) -> tuple[str, str]:
    """Return the names of a base and of the chat model made of it, which has the same shape."""
    return name, name + ending


_TIED: dict[str, Any] = {"tie_word_embeddings": True}
_QWEN2_HALF = ("qwen2", 24, 896, 4864, 14, 2, 151_936)
_QWEN2_SMALL = ("qwen2", 28, 1536, 8960, 12, 2, 151_936)
_QWEN2_LARGE = ("qwen2", 28, 3584, 18_944, 28, 4, 152_064)
_INTERNLM2_LARGE = ("internlm2", 32, 4096, 14_336, 32, 8, 92_544)

CATALOGUE: Mapping[str, Catalogued] = {
    # architecture, layers, hidden size, size of the feed-forward part, heads, key and value heads, vocabulary
    "llama-2-7b": _base(
        "llama", 32, 4096, 11_008, 32, 32, 32_000,
        "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf",
    ),
    "llama-3-8b": _base(
        "llama", 32, 4096, 14_336, 32, 8, 128_256,
        *_pair("meta-llama/Meta-Llama-3-8B", "-Instruct"), *_pair("meta-llama/Llama-3.1-8B", "-Instruct"),
    ),
    "llama-3.2-1b": _base(
        "llama", 16, 2048, 8192, 32, 8, 128_256,
        *_pair("meta-llama/Llama-3.2-1B", "-Instruct"), head_dim=64, **_TIED,
    ),
    "tinyllama-1.1b": _base("llama", 22, 2048, 5632, 32, 4, 32_000, "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    "mistral-7b": _base(
        "mistral", 32, 4096, 14_336, 32, 8, 32_000,
        "mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2",
    ),
    "internlm-7b": _base(
        "internlm", 32, 4096, 11_008, 32, 32, 103_168,
        "internlm/internlm-7b", "internlm/internlm-chat-7b",
    ),
    "internlm2-1.8b": _base(
        "internlm2", 24, 2048, 8192, 16, 8, 92_544,
        "internlm/internlm2-1_8b", "internlm/internlm2-chat-1_8b",
    ),
    "internlm2-7b": _base(*_INTERNLM2_LARGE, "internlm/internlm2-7b", "internlm/internlm2-chat-7b"),
    "internlm2.5-7b": _base(*_INTERNLM2_LARGE, *_pair("internlm/internlm2_5-7b", "-chat")),
    "qwen2-0.5b": _base(*_QWEN2_HALF, *_pair("Qwen/Qwen2-0.5B", "-Instruct"), **_TIED),
    "qwen2-1.5b": _base(*_QWEN2_SMALL, *_pair("Qwen/Qwen2-1.5B", "-Instruct"), **_TIED),
    "qwen2-7b": _base(*_QWEN2_LARGE, *_pair("Qwen/Qwen2-7B", "-Instruct")),
    "qwen2.5-0.5b": _base(*_QWEN2_HALF, *_pair("Qwen/Qwen2.5-0.5B", "-Instruct"), **_TIED),
    "qwen2.5-1.5b": _base(*_QWEN2_SMALL, *_pair("Qwen/Qwen2.5-1.5B", "-Instruct"), **_TIED),
    "qwen2.5-7b": _base(*_QWEN2_LARGE, *_pair("Qwen/Qwen2.5-7B", "-Instruct")),
    "qwen3-0.6b": _base("qwen3", 28, 1024, 3072, 16, 8, 151_936, *_pair("Qwen/Qwen3-0.6B", "-Base"), **_TIED),
    "qwen3-1.7b": _base("qwen3", 28, 2048, 6144, 16, 8, 151_936, *_pair("Qwen/Qwen3-1.7B", "-Base"), **_TIED),
    "qwen3-4b": _base("qwen3", 36, 2560, 9728, 32, 8, 151_936, *_pair("Qwen/Qwen3-4B", "-Base"), **_TIED),
    "qwen3-8b": _base("qwen3", 36, 4096, 12_288, 32, 8, 151_936, *_pair("Qwen/Qwen3-8B", "-Base")),
    "gemma-2b": _base("gemma", 18, 2048, 16_384, 8, 1, 256_000, *_pair("google/gemma-2b", "-it")),
    "gemma-7b": _base("gemma", 28, 3072, 24_576, 16, 16, 256_000, *_pair("google/gemma-7b", "-it")),
    "gemma-2-2b": _base("gemma2", 26, 2304, 9216, 8, 4, 256_000, *_pair("google/gemma-2-2b", "-it")),
    "gemma-3-1b": _base("gemma3_text", 26, 1152, 6912, 4, 1, 262_144, "google/gemma-3-1b-pt", "google/gemma-3-1b-it"),
    "gpt2": Catalogued(
        {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50_257},
        ("openai-community/gpt2", "gpt2"),
    ),
}  # fmt: skip
"""Base models by name."""


def catalogue_name(name: str) -> str | None:
    """Return the name in the catalogue that a name stands for; None if it is in none.

    Upper and lower case, hyphens and underscores do not matter. A name with a slash is that of the hub.

    >>> catalogue_name("llama3_8B"), catalogue_name("Qwen/Qwen2.5-0.5B-Instruct"), catalogue_name("someone/llama-3-8b")
    ('llama-3-8b', 'qwen2.5-0.5b', None)
    """
    if "/" in name:
        hubs = {hub.casefold(): key for key, entry in CATALOGUE.items() for hub in entry.hub_names}
        return hubs.get(name.casefold())
    return {_plain(key): key for key in CATALOGUE}.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name.casefold())
