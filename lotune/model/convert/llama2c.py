"""Checkpoints of llama2.c, versions 0 and 1, as Llama.

A file is a header and the weights in float32 without names. Version 0 begins with seven int32; a negative vocabulary
size says that the output layer has weights of its own. Version 1 begins with a magic number and pads its header to 256
bytes. Heads rotate neighbouring pairs of dimensions, and in transformers dimension i with i + half, so the rows of
queries and keys change places. Source: export.py and run.c of llama2.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lotune.errors import ModelError
from lotune.model.convert.foreign import ForeignModel, StoredTensor

MAGIC = 0x616B3432
HEADER = struct.Struct("<7i")
VERSIONED_HEADER = struct.Struct("<Ii7iB")
VERSIONED_HEADER_BYTES = 256
FLOAT_BYTES = 4
LARGEST_VOCABULARY = 2**24
SKIPPED = "freq_cis"
"""Tables of cosines and sines in version 0, which nothing reads."""


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint: version, sizes, and whether embedding and output layer share their weights."""

    version: int
    dim: int
    hidden_dim: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    context: int
    shared: bool

    @property
    def num_bytes(self) -> int:
        """Where the weights begin."""
        return HEADER.size if self.version == 0 else VERSIONED_HEADER_BYTES

    @property
    def is_plausible(self) -> bool:
        """Whether the sizes fit together.

        >>> Header(0, 288, 768, 6, 6, 6, 32000, 256, True).is_plausible
        True
        >>> Header(0, 289, 768, 6, 6, 6, 32000, 256, True).is_plausible
        False
        """
        sizes = (self.dim, self.hidden_dim, self.layers, self.heads, self.key_heads, self.vocabulary, self.context)
        return (
            min(sizes) > 0
            and self.vocabulary < LARGEST_VOCABULARY
            and self.dim % self.heads == 0
            and self.dim // self.heads % 2 == 0
            and self.heads % self.key_heads == 0
        )

    def blocks(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the blocks of weights in their order in the file: name in llama2.c, shape (layers first)."""
        key_dim = self.dim // self.heads * self.key_heads
        embedding = ("tok_embeddings", (self.vocabulary, self.dim))
        norms = {name: (name, (self.layers, self.dim)) for name in ("attention_norm", "ffn_norm")}
        final = ("norm", (self.dim,))
        attention = [
            ("wq", (self.layers, self.dim, self.dim)),
            ("wk", (self.layers, key_dim, self.dim)),
            ("wv", (self.layers, key_dim, self.dim)),
            ("wo", (self.layers, self.dim, self.dim)),
        ]
        feed_forward = [
            ("w1", (self.layers, self.hidden_dim, self.dim)),
            ("w2", (self.layers, self.dim, self.hidden_dim)),
            ("w3", (self.layers, self.hidden_dim, self.dim)),
        ]
        if self.version == 0:
            tables = (SKIPPED, (2, self.context, self.dim // self.heads // 2))
            yield from (embedding, norms["attention_norm"], *attention, norms["ffn_norm"], *feed_forward, final, tables)
        else:
            yield from (*norms.values(), final, embedding, *attention, *feed_forward)
        if not self.shared:
            yield "output", (self.vocabulary, self.dim)

    @property
    def file_bytes(self) -> int:
        """The size of a complete file.

        >>> Header(1, 8, 16, 1, 2, 2, 10, 4, True).file_bytes
        3232
        """
        return self.num_bytes + FLOAT_BYTES * sum(prod(shape) for _, shape in self.blocks())


NAMES = {
    "tok_embeddings": "model.embed_tokens.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "wq": "model.layers.{}.self_attn.q_proj.weight",
    "wk": "model.layers.{}.self_attn.k_proj.weight",
    "wv": "model.layers.{}.self_attn.v_proj.weight",
    "wo": "model.layers.{}.self_attn.o_proj.weight",
    "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "w1": "model.layers.{}.mlp.gate_proj.weight",
    "w2": "model.layers.{}.mlp.down_proj.weight",
    "w3": "model.layers.{}.mlp.up_proj.weight",
    "norm": "model.norm.weight",
    "output": "lm_head.weight",
}
"""Names in transformers of the weights of llama2.c; {} is the number of the layer."""


def llama_name(block: str, layer: int) -> str:
    """Return the name in transformers of a weight of Meta's Llama and llama2.c, nothing for an unknown one.

    >>> llama_name("w2", 3)
    'model.layers.3.mlp.down_proj.weight'
    """
    return NAMES.get(block, "").format(layer)


def recognise_llama2c(source: Path) -> str:
    """Return what a source is if it is a checkpoint of llama2.c; else nothing."""
    header = _header(source)
    if header is None:
        return ""
    # Seven int32 prove nothing; with the size of the file they do.
    return f"llama2.c checkpoint, version {header.version}" if header.version or _is_complete(source, header) else ""


def read_llama2c(source: Path) -> ForeignModel:
    """Return the model in a checkpoint of llama2.c.

    Raises: ModelError for another version, implausible sizes, or a file of another length than its header says.
    """
    header = _header(source)
    if header is None:
        raise ModelError(str(source), "has no header of llama2.c", "a checkpoint (.bin) of llama2.c", "check the path")
    if header.version > 1:
        found, remedy = f"is of version {header.version}, with quantised weights", "export it again with --version 1"
        raise ModelError(str(source), found, "version 0 or 1, with float32 weights", remedy)
    if not header.is_plausible:
        found = f"its header says width {header.dim}, {header.heads} heads, {header.vocabulary} tokens"
        raise ModelError(str(source), found, "sizes that fit together", "take another copy of the file")
    if not _is_complete(source, header):
        found = f"has {source.stat().st_size:,} bytes"
        raise ModelError(str(source), found, f"{header.file_bytes:,}, by its header", "download or export it again")
    sharing = "shares its weights with the embedding" if header.shared else "has weights of its own"
    notes = [f"version {header.version}", f"the output layer {sharing}"]
    return ForeignModel(_config(header), list(_tensors(source, header)), _tokenizer_beside(source, header), notes)


def _is_complete(source: Path, header: Header) -> bool:
    return header.is_plausible and source.stat().st_size == header.file_bytes


def _header(source: Path) -> Header | None:
    """Return the header of a file of either version; None if it is too short or no file."""
    if not source.is_file():
        return None
    with source.open("rb") as file:
        start = file.read(VERSIONED_HEADER.size)
    if len(start) < HEADER.size:
        return None
    if int.from_bytes(start[:4], "little") == MAGIC:
        if len(start) < VERSIONED_HEADER.size:
            return None
        _, version, dim, hidden_dim, layers, heads, key_heads, vocabulary, context, shared = VERSIONED_HEADER.unpack(
            start
        )
        return Header(version, dim, hidden_dim, layers, heads, key_heads, vocabulary, context, bool(shared))
    dim, hidden_dim, layers, heads, key_heads, vocabulary, context = HEADER.unpack(start[: HEADER.size])
    return Header(0, dim, hidden_dim, layers, heads, key_heads, abs(vocabulary), context, vocabulary > 0)


def _config(header: Header) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": header.vocabulary,
        "hidden_size": header.dim,
        "intermediate_size": header.hidden_dim,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "num_key_value_heads": header.key_heads,
        "head_dim": header.dim // header.heads,
        "max_position_embeddings": header.context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": header.shared,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _tensors(source: Path, header: Header) -> Iterator[StoredTensor]:
    blocks = list(header.blocks())
    sizes = [FLOAT_BYTES * prod(shape) for _, shape in blocks]
    starts = accumulate(sizes, initial=header.num_bytes)
    for (block, shape), start in zip(blocks, starts, strict=False):
        if block == SKIPPED:
            continue
        layered = "{}" in NAMES[block]
        tensor_shape = shape[1:] if layered else shape
        for layer in range(shape[0] if layered else 1):
            offset = start + layer * FLOAT_BYTES * prod(tensor_shape)
            read = partial(_read, source, offset, tensor_shape)
            tensor = StoredTensor(llama_name(block, layer), tensor_shape, torch.float32, read)
            heads = {"wq": header.heads, "wk": header.key_heads}.get(block)
            yield tensor if heads is None else tensor.changed(tensor.name, partial(half_split, heads=heads))


def _read(source: Path, offset: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(source, "<f4", prod(shape), offset=offset)).reshape(shape)


def half_split(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the rows of each head with the first of all pairs before the second of all pairs.

    >>> half_split(torch.arange(4).reshape(4, 1), heads=1).flatten().tolist()
    [0, 2, 1, 3]
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)  # (H, E / 2, 2, D)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _tokenizer_beside(source: Path, header: Header) -> Path | None:
    """Return the tokeniser that stands beside a checkpoint under one of llama2.c's names."""
    names = ("tokenizer.json", f"tok{header.vocabulary}.bin", "tokenizer.bin", "tokenizer.model")
    return next((source.parent / name for name in names if (source.parent / name).is_file()), None)
