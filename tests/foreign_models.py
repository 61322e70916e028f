"""Models in foreign layouts with random weights, and plain references of what they compute.

The references follow the description of each layout alone, in the order of its own formulas, and share nothing with
lotune: they read the names and the order of the foreign file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

Weights = dict[str, Tensor]
Logits = Callable[[Sequence[int]], Tensor]


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Weights:
    """Random weights by name; those of norms are near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator) * 0.3
        weights[name] = weight + 1 if "norm" in name or (".ln_" in name and name.endswith("weight")) else weight
    return weights


def greedy(logits: Logits, prompt: Sequence[int], new: int) -> list[int]:
    """The greedy continuation of a prompt, computed from the start for each token."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention; q is (T, heads, size), k and v are (T, key heads, size)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
    mask = torch.ones(len(q), len(q), dtype=torch.bool).tril()
    return torch.einsum("hts,shd->thd", scores.masked_fill(~mask, -torch.inf).softmax(-1), v).reshape(len(q), -1)


# llama2.c -------------------------------------------------------------------------------------------------------------

LLAMA2C_SIZES = {
    "dim": 16, "hidden_dim": 40, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 320, "max_seq_len": 64,
}  # fmt: skip


def llama2c_weights(shared: bool) -> Weights:
    """Random weights by llama2.c's names."""
    dim, hidden, layers = (LLAMA2C_SIZES[name] for name in ("dim", "hidden_dim", "n_layers"))
    key_dim = dim // LLAMA2C_SIZES["n_heads"] * LLAMA2C_SIZES["n_kv_heads"]
    vocabulary = LLAMA2C_SIZES["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings": (vocabulary, dim), "norm": (dim,)}
    for layer in range(layers):
        shapes |= {f"{layer}.attention_norm": (dim,), f"{layer}.ffn_norm": (dim,)}
        shapes |= {f"{layer}.wq": (dim, dim), f"{layer}.wk": (key_dim, dim), f"{layer}.wv": (key_dim, dim)}
        shapes |= {f"{layer}.wo": (dim, dim), f"{layer}.w1": (hidden, dim), f"{layer}.w2": (dim, hidden)}
        shapes |= {f"{layer}.w3": (hidden, dim)}
    weights = random_weights(shapes if shared else {**shapes, "output": (vocabulary, dim)})
    return {**weights, "output": weights["tok_embeddings"]} if shared else weights


def write_llama2c(path: Path, weights: Weights, version: int, shared: bool) -> None:
    """Write a checkpoint of llama2.c as its export.py describes it."""
    sizes = list(LLAMA2C_SIZES.values())
    layers = range(LLAMA2C_SIZES["n_layers"])
    if version == 0:
        sizes[5] *= 1 if shared else -1
        header = struct.pack("7i", *sizes)
    else:
        header = struct.pack("Ii7iB", 0x616B3432, version, *sizes, shared).ljust(256, b"\0")
    each = [f"{layer}.{{}}" for layer in layers]

    def block(*names: str) -> list[Tensor]:
        return [weights[name.format(kind)] for kind in names for name in each]

    output = [] if shared else [weights["output"]]
    if version == 0:
        half = LLAMA2C_SIZES["dim"] // LLAMA2C_SIZES["n_heads"] // 2
        tables = [torch.full((LLAMA2C_SIZES["max_seq_len"], half), 7.0)] * 2
        order = [weights["tok_embeddings"], *block("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm")]
        order += [*block("w1", "w2", "w3"), weights["norm"], *tables, *output]
    else:
        order = [*block("attention_norm", "ffn_norm"), weights["norm"], weights["tok_embeddings"]]
        order += [*block("wq", "wk", "wv", "wo", "w1", "w2", "w3"), *output]
    path.write_bytes(header + b"".join(weight.numpy().astype("<f4").tobytes() for weight in order))


def write_meta(folder: Path, weights: Weights, parts: int, embedding_dimension: int) -> None:
    """Write the weights as Meta publishes them, divided among files, with the embedding along a dimension."""
    folder.mkdir()
    params = {name: LLAMA2C_SIZES[name] for name in ("dim", "n_layers", "n_heads", "n_kv_heads")}
    (folder / "params.json").write_text(json.dumps({**params, "norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 8}))
    files: list[Weights] = [{"rope.freqs": torch.ones(2)} for _ in range(parts)]
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".")
        module = (
            "attention." if kind in ("wq", "wk", "wv", "wo") else "feed_forward." if kind in ("w1", "w2", "w3") else ""
        )
        full = f"layers.{layer}.{module}{kind}.weight" if layer else f"{kind}.weight"
        dimension = {"wo": 1, "w2": 1, "tok_embeddings": embedding_dimension}.get(kind, 0)
        pieces = [weight] * parts if weight.ndim == 1 else weight.chunk(parts, dimension)
        for file, piece in zip(files, pieces, strict=True):
            file[full] = piece.clone()
    for number, file in enumerate(files):
        torch.save(file, folder / f"consolidated.{number:02d}.pth")


def llama2c_logits(weights: Weights) -> Logits:
    """The forward pass of llama2.c and of Meta's Llama: neighbouring pairs of a head are rotated."""
    heads, key_heads = LLAMA2C_SIZES["n_heads"], LLAMA2C_SIZES["n_kv_heads"]
    size = LLAMA2C_SIZES["dim"] // heads

    def rotate(x: Tensor) -> Tensor:  # (T, heads, size)
        frequencies = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(len(x)), frequencies)[:, None]
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    def logits(ids: Sequence[int]) -> Tensor:
        x = weights["tok_embeddings"][list(ids)]
        for layer in range(LLAMA2C_SIZES["n_layers"]):
            w = {name.partition(".")[2]: weight for name, weight in weights.items() if name.startswith(f"{layer}.")}
            h = rms_norm(x, w["attention_norm"], 1e-5)
            q = (h @ w["wq"].T).reshape(len(x), heads, size)
            k = (h @ w["wk"].T).reshape(len(x), key_heads, size)
            v = (h @ w["wv"].T).reshape(len(x), key_heads, size)
            x = x + attend(rotate(q), rotate(k), v) @ w["wo"].T
            h = rms_norm(x, w["ffn_norm"], 1e-5)
            x = x + (silu(h @ w["w1"].T) * (h @ w["w3"].T)) @ w["w2"].T
        return rms_norm(x, weights["norm"], 1e-5) @ weights["output"].T

    return logits


def write_llama2c_tokenizer(path: Path, tokens: Sequence[tuple[bytes, float]]) -> None:
    """Write a tokenizer.bin: longest length, then score, length and bytes of each token."""
    content = struct.pack("I", max(len(token) for token, _ in tokens))
    for token, score in tokens:
        content += struct.pack("fi", score, len(token)) + token
    path.write_bytes(content)


def llama2c_tokens(texts: Sequence[tuple[str, float]], size: int = 320) -> list[tuple[bytes, float]]:
    """Tokens of llama2.c: three special ones, all bytes, then texts with their scores and fillers."""
    tokens = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    tokens += [(f"<0x{byte:02X}>".encode(), 0.0) for byte in range(256)]
    tokens += [(text.encode(), score) for text, score in texts]
    return [*tokens, *((f"filler{number}".encode(), -1e6) for number in range(len(tokens), size))]


def llama2c_encode(tokens: Sequence[tuple[bytes, float]], text: str) -> list[int]:
    """Encode as run.c does, without begin-of-text: a space first, characters or bytes, then the best pair each time."""
    ids = {token: number for number, (token, _) in reversed(list(enumerate(tokens)))}
    pieces: list[int] = []
    for character in (" " + text) if text else "":
        data = character.encode()
        pieces += [ids[data]] if data in ids else [byte + 3 for byte in data]
    while True:
        pairs = [(tokens[a][0] + tokens[b][0], place) for place, (a, b) in enumerate(pairwise(pieces))]
        known = [(tokens[ids[pair]][1], -place) for pair, place in pairs if pair in ids]
        if not known:
            return pieces
        place = -max(known)[1]
        pieces[place : place + 2] = [ids[tokens[pieces[place]][0] + tokens[pieces[place + 1]][0]]]


# InternLM -------------------------------------------------------------------------------------------------------------

INTERNLM_SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu", "initializer_range": 0.02,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "tie_word_embeddings": False, "use_cache": True,
}  # fmt: skip
INTERNLM1 = {
    **INTERNLM_SIZES, "architectures": ["InternLMForCausalLM"], "model_type": "internlm", "bias": True,
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm.InternLMForCausalLM"},
    "rotary": {"base": 10000, "type": "dynamic"}, "torch_dtype": "float16",
}  # fmt: skip
INTERNLM2 = {
    **INTERNLM_SIZES, "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False,
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"}, "num_key_value_heads": 2,
    "rope_theta": 1000000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "torch_dtype": "bfloat16",
}  # fmt: skip


INTERNLM1_NAMES = (
    *("input_layernorm", "self_attn.o_proj", "post_attention_layernorm"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
INTERNLM2_NAMES = (
    *("attention_norm", "attention.wo", "ffn_norm"),
    *("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
)


def internlm_weights(config: Mapping[str, Any]) -> Weights:
    """Random weights by the names of InternLM 1 or 2."""
    width, inner, vocabulary = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    second = config["model_type"] == "internlm2"
    embedding, output = ("model.tok_embeddings", "output") if second else ("model.embed_tokens", "lm_head")
    shapes: dict[str, tuple[int, ...]] = {f"{embedding}.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        if second:
            size = width // config["num_attention_heads"]
            fused = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * size
            linear = {"attention.wqkv": (fused, width), "attention.wo": (width, width)}
            linear |= {f"feed_forward.{name}": (inner, width) for name in ("w1", "w3")}
            linear |= {"feed_forward.w2": (width, inner)}
            norms = ("attention_norm", "ffn_norm")
        else:
            linear = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
            shapes |= {f"{at}.self_attn.{name}_proj.bias": (width,) for name in "qkvo"}
            linear |= {f"mlp.{name}_proj": (inner, width) for name in ("gate", "up")}
            linear |= {"mlp.down_proj": (width, inner)}
            norms = ("input_layernorm", "post_attention_layernorm")
        shapes |= {f"{at}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{at}.{name}.weight": (width,) for name in norms}
    return random_weights({**shapes, f"{output}.weight": (vocabulary, width)})


def write_internlm(folder: Path, config: Mapping[str, Any], weights: Weights, form: str) -> None:
    """Write config.json and the weights in two parts, as `form` safetensors or bin."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)} if form == "bin" else {}
    names = list(weights)
    parts = [names[::2], names[1::2]]
    suffix, stem = ("safetensors", "model") if form == "safetensors" else ("bin", "pytorch_model")
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        tensors = {name: weights[name] for name in part} | (extra if number == 1 else {})
        if form == "safetensors":
            save_file(tensors, folder / file)
        else:
            torch.save(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    index = "model.safetensors.index.json" if form == "safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def internlm_logits(config: Mapping[str, Any], weights: Weights) -> Logits:
    """The forward pass of InternLM 1 or 2: halves of a head are rotated, the base grows beyond the context."""
    heads = config["num_attention_heads"]
    size, eps = config["hidden_size"] // heads, config["rms_norm_eps"]
    second = config["model_type"] == "internlm2"
    names = INTERNLM2_NAMES if second else INTERNLM1_NAMES
    groups = heads // config["num_key_value_heads"] if second else 1
    theta = config["rope_theta"] if second else config["rotary"]["base"]
    factor = config["rope_scaling"]["factor"] if second else 1.0

    def rotate(x: Tensor) -> Tensor:  # (T, heads, size)
        base, context = theta, config["max_position_embeddings"]
        if len(x) > context:
            base = theta * (factor * len(x) / context - (factor - 1)) ** (size / (size - 2))
        angles = torch.outer(torch.arange(len(x)).float(), base ** (-torch.arange(0, size, 2) / size))
        angles = torch.cat((angles, angles), -1)[:, None]
        first, last = x.chunk(2, -1)
        return x * angles.cos() + torch.cat((-last, first), -1) * angles.sin()

    def linear(h: Tensor, name: str) -> Tensor:
        return h @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(1))

    def queries_keys_values(h: Tensor, at: str) -> list[Tensor]:
        if not second:
            return [linear(h, f"{at}.self_attn.{name}_proj").reshape(len(h), heads, size) for name in "qkv"]
        fused = linear(h, f"{at}.attention.wqkv").reshape(len(h), heads // groups, groups + 2, size)
        return [fused[:, :, :groups].reshape(len(h), heads, size), fused[:, :, -2], fused[:, :, -1]]

    def logits(ids: Sequence[int]) -> Tensor:
        x = weights["model.tok_embeddings.weight" if second else "model.embed_tokens.weight"][list(ids)]
        for layer in range(config["num_hidden_layers"]):
            before, out, after, gate, up, down = (f"model.layers.{layer}.{name}" for name in names)
            q, k, v = queries_keys_values(rms_norm(x, weights[f"{before}.weight"], eps), f"model.layers.{layer}")
            x = x + linear(attend(rotate(q), rotate(k), v), out)
            h = rms_norm(x, weights[f"{after}.weight"], eps)
            x = x + linear(silu(linear(h, gate)) * linear(h, up), down)
        return linear(rms_norm(x, weights["model.norm.weight"], eps), "output" if second else "lm_head")

    return logits


# nanoGPT --------------------------------------------------------------------------------------------------------------

NANOGPT_ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "vocab_size": 320}


def nanogpt_weights(bias: bool) -> Weights:
    """Random weights by nanoGPT's names; the output layer is the embedding."""
    width, parts = NANOGPT_ARGS["n_embd"], ("weight", "bias") if bias else ("weight",)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (320, width), "wpe.weight": (48, width)}
    linears = {"attn.c_attn": (3 * width, width), "attn.c_proj": (width, width)}
    linears |= {"mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
    for layer in range(NANOGPT_ARGS["n_layer"]):
        for name, shape in linears.items():
            shapes |= {f"h.{layer}.{name}.{part}": shape if part == "weight" else shape[:1] for part in parts}
        shapes |= {f"h.{layer}.{name}.{part}": (width,) for name in ("ln_1", "ln_2") for part in parts}
    shapes |= {f"ln_f.{part}": (width,) for part in parts}
    weights = {f"transformer.{name}": weight for name, weight in random_weights(shapes).items()}
    return {**weights, "lm_head.weight": weights["transformer.wte.weight"]}


def write_nanogpt(path: Path, weights: Weights, bias: bool, prefix: str = "") -> None:
    """Write a ckpt.pt as train.py of nanoGPT does, with a mask as versions without fused attention have it."""
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 48, 48).tril()}
    model = {prefix + name: weight for name, weight in (weights | mask).items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 6e-4}]}
    args = {**NANOGPT_ARGS, "bias": bias, "dropout": 0.0}
    rest = {"iter_num": 3, "best_val_loss": torch.tensor(2.3), "config": {"dataset": "openwebtext"}}
    torch.save({"model": model, "optimizer": optimizer, "model_args": args, **rest}, path)


def nanogpt_logits(weights: Weights) -> Logits:
    """The forward pass of nanoGPT."""
    heads, width = NANOGPT_ARGS["n_head"], NANOGPT_ARGS["n_embd"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(1))

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (width,), weights[f"{name}.weight"], weights.get(f"{name}.bias"), 1e-5)

    def logits(ids: Sequence[int]) -> Tensor:
        x = weights["transformer.wte.weight"][list(ids)] + weights["transformer.wpe.weight"][: len(ids)]
        for layer in range(NANOGPT_ARGS["n_layer"]):
            at = f"transformer.h.{layer}"
            fused = linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").split(width, -1)
            q, k, v = (part.reshape(len(x), heads, -1) for part in fused)
            x = x + linear(attend(q, k, v), f"{at}.attn.c_proj")
            x = x + linear(gelu(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")), f"{at}.mlp.c_proj")
        return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T

    return logits
