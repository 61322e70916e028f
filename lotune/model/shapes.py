"""The shape of a causal language model: its linear layers and its number of parameters, without its weights.

It follows from a configuration in Hugging Face's layout (config.json), without torch or transformers, for the
architectures in `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lotune.errors import ModelError
from lotune.model.methods.target_names import ALL_LINEAR, matching_names

Shape = tuple[int, int]
"""Inputs and outputs of a linear layer."""
MAX_LAYERS, MAX_WIDTH = 10_000, 100_000_000
"""Largest numbers of layers and of anything else in a configuration; beyond them it is damaged or hostile."""


@dataclass(frozen=True)
class ModelShape:
    """Linear layers by full name, in the model's order, and the number of parameters; tied weights count once."""

    linear: Mapping[str, Shape]
    total: int
    width: int | None
    """Size of the embedding of a token; None if the model has no ordinary embedding."""
    head: str | None
    """Full name of the output head."""
    tied: frozenset[str] = frozenset()
    """Linear layers that share their weights with the embedding."""
    never_called: frozenset[str] = frozenset()
    """Linear layers whose weights a kernel reads, so that an adapter would have no effect (Mamba)."""

    def targets(self, target_modules: str | Sequence[str]) -> list[str]:
        """Return the full names of the linear layers that `target_modules` selects, in the model's order.

        Raises: ModelError as `matching_names` does, or for a layer that an adapter cannot change.
        """
        if target_modules == ALL_LINEAR:
            return [name for name in self.linear if name != self.head and name not in self.never_called]
        chosen = matching_names(self.linear, target_modules)
        if tied := [name for name in chosen if name in self.tied]:
            found = f"{tied[0]} shares its weights with the embedding"
            raise ModelError("adapter.target_modules", found, remedy=ALL_LINEAR)
        if read := sorted(self.never_called.intersection(chosen)):
            found = f"the kernels of a Mamba layer read the weights of {read[0]}, so an adapter would have no effect"
            raise ModelError("adapter.target_modules", found, "modules that are called, such as in_proj", ALL_LINEAR)
        return chosen

    def target_shapes(self, target_modules: str | Sequence[str]) -> list[Shape]:
        """Return (inputs, outputs) of each linear layer that `target_modules` selects."""
        return [self.linear[name] for name in self.targets(target_modules)]


def shape_of_config(config: Mapping[str, Any], name: str = "config.json") -> ModelShape | None:
    """Return the shape of a model from the content of its config.json; None if only transformers can tell.

    Raises: ModelError for sizes that no model has; `name` is the file for the message.

    >>> llama = {"model_type": "llama", "vocab_size": 100, "hidden_size": 8, "intermediate_size": 16}
    >>> shape = shape_of_config({**llama, "num_hidden_layers": 1, "num_attention_heads": 2})
    >>> shape.total, shape.targets(["v_proj"]), shape_of_config({"model_type": "mamba"})
    (2264, ['model.layers.0.self_attn.v_proj'], None)
    """
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None or config.get("add_cross_attention"):
        return None
    try:
        return architecture(_Sizes(config, name))
    except KeyError:  # transformers knows the default of what the file leaves out
        return None


@dataclass(frozen=True)
class _Sizes:
    """The numbers of a configuration."""

    config: Mapping[str, Any]
    name: str

    def number(self, key: str, default: int | None = None) -> int:
        """Return a positive integer. Raises: KeyError if it is missing or of another type; ModelError if too large."""
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise KeyError(key)
        if not 1 <= value <= (MAX_LAYERS if "layer" in key else MAX_WIDTH):
            raise ModelError(self.name, f"{key} is {value}", "a size that a model can have")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.config.get(key)
        return default if value is None else bool(value)


@dataclass(frozen=True)
class _LlamaLike:
    """How an architecture of Llama's kind differs from Llama."""

    biases: Callable[[_Sizes], str] = lambda sizes: "qkvo" if sizes.flag("attention_bias") else ""
    """Return the letters of the attention's projections that have a bias."""
    norms: int = 2
    """Norms of the hidden size in a layer."""
    qk_norm: bool = False
    """Whether queries and keys have a norm of the size of a head."""
    head_dim: int | None = None
    """Size of a head if the configuration does not say; None: hidden size / heads."""
    tied: bool = False
    """Whether input and output embeddings share their weights if the configuration does not say."""

    def __call__(self, sizes: _Sizes) -> ModelShape:
        """Return the shape of a model of these sizes."""
        hidden, inner, vocabulary = map(sizes.number, ("hidden_size", "intermediate_size", "vocab_size"))
        layers, heads = sizes.number("num_hidden_layers"), sizes.number("num_attention_heads")
        head_dim = sizes.number("head_dim", self.head_dim or hidden // heads)
        queries, values = heads * head_dim, sizes.number("num_key_value_heads", heads) * head_dim
        layer = {
            "self_attn.q_proj": (hidden, queries), "self_attn.k_proj": (hidden, values),
            "self_attn.v_proj": (hidden, values), "self_attn.o_proj": (queries, hidden),
            "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner), "mlp.down_proj": (inner, hidden),
        }  # fmt: skip
        biased = {f"self_attn.{letter}_proj" for letter in self.biases(sizes)}
        biased |= {part for part in layer if part.startswith("mlp.")} if sizes.flag("mlp_bias") else set()
        in_layer = sum(
            inputs * outputs + (outputs if part in biased else 0) for part, (inputs, outputs) in layer.items()
        )
        in_layer += self.norms * hidden + (2 * head_dim if self.qk_norm else 0)
        tied = sizes.flag("tie_word_embeddings", self.tied)
        total = layers * in_layer + hidden + vocabulary * hidden * (1 if tied else 2)
        linear = {f"model.layers.{index}.{part}": shape for index in range(layers) for part, shape in layer.items()}
        linear["lm_head"] = (hidden, vocabulary)
        return ModelShape(linear, total, hidden, "lm_head", frozenset(["lm_head"] if tied else []))


def _gpt2(sizes: _Sizes) -> ModelShape:
    """Return the shape of a GPT-2; its linear layers all have a bias, its output head is tied unless told otherwise."""
    hidden, layers, vocabulary = map(sizes.number, ("n_embd", "n_layer", "vocab_size"))
    inner = sizes.number("n_inner", 4 * hidden)
    layer = {
        "attn.c_attn": (hidden, 3 * hidden), "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner), "mlp.c_proj": (inner, hidden),
    }  # fmt: skip
    in_layer = sum((inputs + 1) * outputs for inputs, outputs in layer.values()) + 4 * hidden  # two norms with bias
    tied = sizes.flag("tie_word_embeddings", True)
    embeddings = (vocabulary * (1 if tied else 2) + sizes.number("n_positions")) * hidden
    linear = {f"transformer.h.{index}.{part}": shape for index in range(layers) for part, shape in layer.items()}
    linear["lm_head"] = (hidden, vocabulary)
    total = layers * in_layer + 2 * hidden + embeddings
    return ModelShape(linear, total, hidden, "lm_head", frozenset(["lm_head"] if tied else []))


ARCHITECTURES: Mapping[str, Callable[[_Sizes], ModelShape]] = {
    "llama": _LlamaLike(),
    # InternLM is Llama with biases in the attention. InternLM 2 fuses queries, keys and values into one layer; in a
    # folder converted to Llama's names they stand apart, and the number of parameters is the same.
    "internlm": _LlamaLike(biases=lambda sizes: "qkvo" if sizes.flag("bias", True) else ""),
    "internlm2": _LlamaLike(biases=lambda sizes: "qkvo" if sizes.flag("bias") else ""),
    "mistral": _LlamaLike(biases=lambda sizes: ""),
    "qwen2": _LlamaLike(biases=lambda sizes: "qkv"),
    "qwen3": _LlamaLike(qk_norm=True, head_dim=128),
    "gemma": _LlamaLike(head_dim=256, tied=True),
    "gemma2": _LlamaLike(norms=4, head_dim=256, tied=True),
    "gemma3_text": _LlamaLike(norms=4, qk_norm=True, head_dim=256, tied=True),
    "gpt2": _gpt2,
}
"""How to read the shape of each architecture, by `model_type` in config.json."""
