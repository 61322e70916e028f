"""Llama 2 and 3 as Meta publishes them: params.json and consolidated.NN.pth.

The names are those of llama2.c, and heads rotate neighbouring pairs as there. Large models are divided among files: the
outputs of most layers, the inputs of `wo` and `w2`, and the embedding by tokens (Llama 3) or by width (Llama 2).
Source: model.py of llama and llama3, and the layers of fairscale that they use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lotune.errors import ModelError
from lotune.model.convert.foreign import ForeignModel, StoredTensor
from lotune.model.convert.llama2c import half_split, llama_name
from lotune.model.convert.sources import load_pickled, pickled_tensors
from lotune.model.weight_files import read_object

PARAMS = "params.json"
SIZES = ("dim", "n_layers", "n_heads")
BY_INPUTS = ("wo", "w2")
"""Layers that are divided by their inputs, the second dimension."""
CONTEXTS = {10_000.0: 4096, 500_000.0: 8192}
"""Context in tokens by the base of the rotation, as params.json names none: Llama 2 and Llama 3."""


def recognise_meta(source: Path) -> str:
    """Return what a source is if it is a folder of Llama in Meta's layout; else nothing."""
    is_meta = source.is_dir() and (source / PARAMS).is_file() and bool(_files(source))
    return "Llama in Meta's layout" if is_meta else ""


def read_meta(source: Path) -> ForeignModel:
    """Return the model in a folder of Meta's layout.

    Raises: ModelError if a file is damaged or missing, or if the rotation is scaled as in Llama 3.1.
    """
    params, where = read_object(source / PARAMS, str(source)), f"{source}/{PARAMS}"
    for name in SIZES:
        if not isinstance(params.get(name), int) or params[name] < 1:
            raise ModelError(where, f"{name} is {params.get(name)!r}", "a positive number", "take another copy")
    theta = float(params.get("rope_theta", 10_000.0))
    if params.get("use_scaled_rope") or theta not in CONTEXTS:
        found, remedy = (
            "scales its positions by a factor that it does not name",
            "take the copy in Hugging Face's layout",
        )
        raise ModelError(where, found, "Llama 2 or Llama 3", remedy)
    files = _files(source)
    if not files:
        raise ModelError(str(source), "has no consolidated.00.pth", "the weights of Llama", "download them again")
    parts = [_named(pickled_tensors(load_pickled(file), file)) for file in files]
    key_heads = int(params.get("n_kv_heads") or params["n_heads"])
    heads = {"wq": int(params["n_heads"]), "wk": key_heads}
    tensors = list(_whole(parts, params, heads, where))
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    config = _config(params, theta, shapes, where)
    notes = [f"{len(files)} files of weights", f"context {config['max_position_embeddings']:,}, as {PARAMS} names none"]
    return ForeignModel(config, tensors, _tokenizer(source), notes)


def _files(source: Path) -> list[Path]:
    return sorted(file for file in source.glob("consolidated.*.pth") if re.fullmatch(r".*\.\d\d\.pth", file.name))


def _named(tensors: Sequence[StoredTensor]) -> dict[str, StoredTensor]:
    return {tensor.name: tensor for tensor in tensors if tensor.name != "rope.freqs"}


def _whole(
    parts: Sequence[Mapping[str, StoredTensor]], params: Mapping[str, Any], heads: Mapping[str, int], where: str
) -> Iterator[StoredTensor]:
    """Yield each tensor put together from its parts, under the name that transformers gives it."""
    for name, first in parts[0].items():
        pieces = [part[name] for part in parts if name in part]
        if len(pieces) != len(parts):
            raise ModelError(where, f"{name} is in {len(pieces)} of {len(parts)} files", "all files of one model")
        layer = re.fullmatch(r"layers\.(\d+)\.(?:attention|feed_forward)\.(\w+)\.weight", name)
        kind = layer[2] if layer else name.removesuffix(".weight")
        dimension = 1 if kind in BY_INPUTS or (kind == "tok_embeddings" and first.shape[-1] != params["dim"]) else 0
        whole = first if len(parts) == 1 or len(first.shape) == 1 else _joined(pieces, dimension, where)
        yield _renamed(whole, name, heads.get(kind))


def _joined(pieces: Sequence[StoredTensor], dimension: int, where: str) -> StoredTensor:
    """Return the tensor whose parts, along a dimension, are in several files."""
    rest = {tuple(size for place, size in enumerate(piece.shape) if place != dimension) for piece in pieces}
    if len(rest) > 1:
        raise ModelError(where, f"the parts of {pieces[0].name} do not fit together", "all files of one model")
    shape = list(pieces[0].shape)
    shape[dimension] = sum(piece.shape[dimension] for piece in pieces)

    def read() -> torch.Tensor:
        return torch.cat([piece.read() for piece in pieces], dimension)

    return StoredTensor(pieces[0].name, tuple(shape), pieces[0].dtype, read)


def _renamed(tensor: StoredTensor, name: str, heads: int | None) -> StoredTensor:
    layer = re.fullmatch(r"layers\.(\d+)\.(?:attention\.|feed_forward\.)?(\w+)\.weight", name)
    block, number = (layer[2], int(layer[1])) if layer else (name.removesuffix(".weight"), 0)
    new = llama_name(block, number) or name
    if heads is None or tensor.shape[0] % (2 * heads):
        return tensor.renamed(new)
    return tensor.changed(new, partial(half_split, heads=heads))


def _config(
    params: Mapping[str, Any], theta: float, shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, Any]:
    embedding, gate = (shapes.get(llama_name(name, 0)) for name in ("tok_embeddings", "w1"))
    if embedding is None or gate is None:
        raise ModelError(
            where, "its weights have no tok_embeddings or w1", "the weights of Llama", "download them again"
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": embedding[0],
        "hidden_size": params["dim"],
        "intermediate_size": gate[0],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": int(params.get("n_kv_heads") or params["n_heads"]),
        "head_dim": params["dim"] // params["n_heads"],
        "max_position_embeddings": CONTEXTS[theta],
        "hidden_act": "silu",
        "rms_norm_eps": float(params.get("norm_eps", 1e-5)),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _tokenizer(source: Path) -> Path | None:
    """Return the tokeniser of a model, which Meta puts beside it or into the folder above."""
    places = (source / "tokenizer.model", source.parent / "tokenizer.model")
    return next((file for file in places if file.is_file()), None)
