"""Checkpoints of nanoGPT as GPT-2: the same network, with linear layers in place of Conv1D.

transformers stores these four weights of a layer as (inputs, outputs), nanoGPT as (outputs, inputs). A model trained
without biases gets zeros. Source: model.py of nanoGPT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lotune.errors import ModelError
from lotune.model.convert.foreign import ForeignModel, StoredTensor
from lotune.model.convert.sources import load_pickled, pickled_tensors

CHECKPOINT = "ckpt.pt"
COMPILED_PREFIX = "_orig_mod."
"""What torch.compile puts before the names of weights."""
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
TRANSPOSED = re.compile(r".*\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
MASK = re.compile(r".*\.attn\.(bias|masked_bias)")
"""The causal mask, a buffer of versions without fused attention."""
OTHER_NETWORKS = ("use_rmsnorm", "use_softermax", "use_relu", "use_squared_relu")
"""Switches of variants of nanoGPT that are no GPT-2."""


def recognise_nanogpt(source: Path) -> str:
    """Return what a source is if it is a checkpoint of nanoGPT or its folder; else nothing."""
    path = _checkpoint(source)
    if not path.is_file() or path.suffix not in (".pt", ".pth"):
        return ""
    content = load_pickled(path)
    return "nanoGPT checkpoint" if isinstance(content, dict) and {"model", "model_args"} <= set(content) else ""


def read_nanogpt(source: Path) -> ForeignModel:
    """Return the model in a checkpoint of nanoGPT.

    Raises: ModelError if sizes or weights are missing or damaged, or if the checkpoint is of a variant of the network.
    """
    path = _checkpoint(source)
    content = load_pickled(path)
    if not isinstance(content, dict) or not {"model", "model_args"} <= set(content):
        raise ModelError(str(path), "has no model and model_args", "a ckpt.pt of nanoGPT", "check the path")
    sizes = _sizes(content["model_args"], path)
    state = {str(name).removeprefix(COMPILED_PREFIX): value for name, value in dict(content["model"]).items()}
    stored = [tensor for tensor in pickled_tensors(state, path) if not MASK.fullmatch(tensor.name)]
    tensors = list(_as_gpt2(stored, sizes))
    with_bias = any(tensor.name == "transformer.ln_f.bias" for tensor in stored)
    notes = [
        "with biases" if with_bias else "without biases: GPT-2's are zeros",
        "the activation is GELU in full, as in nanoGPT since July 2023; of an older one, "
        "set activation_function to gelu_new in config.json",
    ]
    return ForeignModel(_config(sizes), tensors, _tokenizer_beside(path), notes)


def _checkpoint(source: Path) -> Path:
    return source / CHECKPOINT if source.is_dir() else source


def _sizes(model_args: Any, path: Path) -> dict[str, int]:
    if not isinstance(model_args, Mapping):
        raise ModelError(str(path), "model_args is no object", "the sizes of the model", "take another copy")
    for name in SIZES:
        if not isinstance(model_args.get(name), int) or isinstance(model_args[name], bool) or model_args[name] < 1:
            found = f"model_args.{name} is {model_args.get(name)!r}"
            raise ModelError(str(path), found, "a positive number", "take another copy of the checkpoint")
    if variant := next((name for name in OTHER_NETWORKS if model_args.get(name)), ""):
        raise ModelError(str(path), f"was trained with {variant}", "nanoGPT's own network", "GPT-2 has no such layer")
    return {name: model_args[name] for name in SIZES}


def _config(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": sizes["vocab_size"],
        "n_positions": sizes["block_size"],
        "n_embd": sizes["n_embd"],
        "n_layer": sizes["n_layer"],
        "n_head": sizes["n_head"],
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _as_gpt2(stored: list[StoredTensor], sizes: Mapping[str, int]) -> Iterator[StoredTensor]:
    """Yield the weights as GPT-2 has them, with zeros for missing biases; the output layer shares the embedding's."""
    names = {tensor.name for tensor in stored}
    for tensor in stored:
        if tensor.name == "lm_head.weight":
            continue
        yield tensor.changed(tensor.name, torch.t) if _is_transposed(tensor) else tensor
        bias = f"{tensor.name.removesuffix('.weight')}.bias"
        if tensor.name.endswith(".weight") and not re.search(r"\.w[tp]e\.", tensor.name) and bias not in names:
            shape = tensor.shape[:1]
            yield StoredTensor(bias, shape, tensor.dtype, partial(torch.zeros, shape, dtype=tensor.dtype))


def _is_transposed(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 2 and TRANSPOSED.fullmatch(tensor.name) is not None


def _tokenizer_beside(path: Path) -> Path | None:
    """Return the tokeniser beside a checkpoint. A meta.pkl of single characters is a pickle, which is never opened."""
    names = ("tokenizer.json", "encoder.json", "vocab.json")
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)
