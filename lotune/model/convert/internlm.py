"""InternLM 1, 2 and 2.5 as Llama: the same formulas under other names.

InternLM 1 has Llama's names, with biases on the four projections of the attention. InternLM 2 fuses queries, keys and
values in one projection: for each key head its group of queries, then the key, then the value. Source: the modelling
files that the models are published with (`modeling_internlm.py`, `modeling_internlm2.py`), whose code is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lotune.errors import ModelError
from lotune.model.convert.foreign import ForeignModel, StoredTensor
from lotune.model.convert.sources import generation_config, has_weights, tensors_in_folder
from lotune.model.weight_files import CONFIG, read_object

ARCHITECTURES = {"internlm": "InternLMForCausalLM", "internlm2": "InternLM2ForCausalLM"}
"""The architecture of each `model_type` in config.json."""
SAME_VALUES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "rms_norm_eps", "hidden_act", "initializer_range", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Values of config.json that mean the same for Llama."""
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
INTERNLM2_NAMES = (
    (r"model\.tok_embeddings\.", "model.embed_tokens."),
    (r"output\.", "lm_head."),
    (r"(model\.layers\.\d+)\.attention\.wo\.", r"\1.self_attn.o_proj."),
    (r"(model\.layers\.\d+)\.feed_forward\.w1\.", r"\1.mlp.gate_proj."),
    (r"(model\.layers\.\d+)\.feed_forward\.w3\.", r"\1.mlp.up_proj."),
    (r"(model\.layers\.\d+)\.feed_forward\.w2\.", r"\1.mlp.down_proj."),
    (r"(model\.layers\.\d+)\.attention_norm\.", r"\1.input_layernorm."),
    (r"(model\.layers\.\d+)\.ffn_norm\.", r"\1.post_attention_layernorm."),
)
"""Beginnings of InternLM 2's names and Llama's names for the same weights."""


def recognise_internlm(source: Path) -> str:
    """Return what a source is if it is a folder of InternLM 1, 2 or 2.5; else nothing."""
    if not source.is_dir() or not (source / CONFIG).is_file():
        return ""
    config = read_object(source / CONFIG, str(source))
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    return f"{architecture} in Hugging Face's layout" if architecture else ""


def read_internlm(source: Path) -> ForeignModel:
    """Return the model in a folder of InternLM 1, 2 or 2.5 as a Llama.

    Raises: ModelError for another architecture or a value that Llama does not have, and as `tensors_in_folder`.
    """
    config, where = read_object(source / CONFIG, str(source)), f"{source}/{CONFIG}"
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES or ARCHITECTURES[kind] not in config.get("architectures", [ARCHITECTURES[kind]]):
        found = f"is a {config.get('architectures') or kind}"
        raise ModelError(where, found, " or ".join(ARCHITECTURES.values()), "take the causal language model")
    for name in SIZES:
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise ModelError(where, f"{name} is {config.get(name)!r}", "a positive number", "take another copy")
    if not has_weights(source):
        raise ModelError(str(source), "holds no weights", "model.safetensors or pytorch_model.bin, or their parts")
    stored = [tensor for tensor in tensors_in_folder(source) if not tensor.name.endswith(".rotary_emb.inv_freq")]
    llama = _llama_config(config, where)
    if kind == "internlm2":
        stored = list(_as_llama(stored, llama, where))
    if llama["tie_word_embeddings"]:
        stored = [tensor for tensor in stored if tensor.name != "lm_head.weight"]
    notes = [f"rope scaling: {llama['rope_parameters']['rope_type']}"]
    notes += ["biases on the projections of the attention"] if llama["attention_bias"] else []
    return ForeignModel(llama, stored, source, notes, generation=generation_config(source))


def _llama_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    llama = {name: config[name] for name in SAME_VALUES if name in config}
    return {
        **llama,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config["hidden_size"] // heads,
        "attention_bias": bool(config.get("bias", config["model_type"] == "internlm")),
        "mlp_bias": False,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_parameters": _rope(config, where),
    }


def _rope(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the rotary settings: InternLM 2 names them as Llama did, InternLM 1 in an object `rotary`."""
    rotary, scaling = config.get("rotary") or {}, config.get("rope_scaling") or {}
    theta = float(rotary.get("base", config.get("rope_theta", 10000.0)))
    kind = str(scaling.get("type", scaling.get("rope_type", rotary.get("type", "default"))))
    factor = float(scaling.get("factor", rotary.get("scaling_factor", 1.0)))
    if kind in ("default", "origin"):
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("dynamic", "linear"):
        raise ModelError(where, f"scales positions by {kind!r}", "dynamic or linear", "take another copy of the model")
    return {"rope_type": kind, "rope_theta": theta, "factor": factor}


def _as_llama(tensors: Iterable[StoredTensor], llama: Mapping[str, Any], where: str) -> Iterator[StoredTensor]:
    for tensor in tensors:
        fused = re.fullmatch(r"(model\.layers\.\d+)\.attention\.wqkv\.(weight|bias)", tensor.name)
        if fused is None:
            yield tensor.renamed(_llama_name(tensor.name))
            continue
        heads, key_heads = llama["num_attention_heads"], llama["num_key_value_heads"]
        rows = (heads + 2 * key_heads) * llama["head_dim"]
        if heads % key_heads or tensor.shape[0] != rows:
            raise ModelError(where, f"{tensor.name} has {tensor.shape[0]} rows", f"{rows}", "take another copy")
        for part, pick in _parts(heads // key_heads).items():
            split = partial(_split, key_heads=key_heads, head_dim=llama["head_dim"], pick=pick)
            yield tensor.changed(f"{fused[1]}.self_attn.{part}_proj.{fused[2]}", split)


def _llama_name(name: str) -> str:
    """Return Llama's name of a weight of InternLM 2.

    >>> _llama_name("model.layers.3.feed_forward.w3.weight"), _llama_name("model.norm.weight")
    ('model.layers.3.mlp.up_proj.weight', 'model.norm.weight')
    """
    for pattern, replacement in INTERNLM2_NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _parts(group: int) -> dict[str, slice]:
    """Return where the queries, the key and the value of a key head lie in its block of `group` + 2 heads."""
    return {"q": slice(0, group), "k": slice(group, group + 1), "v": slice(group + 1, group + 2)}


def _split(fused: torch.Tensor, key_heads: int, head_dim: int, pick: slice) -> torch.Tensor:
    rest = fused.shape[1:]  # (D,) for a weight, () for a bias
    blocks = fused.reshape(key_heads, -1, head_dim, *rest)  # (G, group + 2, E, D)
    return blocks[:, pick].reshape(-1, *rest)
