"""A peer of benchmarks/train.py: the plainest way to pre-train a GPT well, in the shape of nanoGPT.

One file, one model with one matrix for queries, keys and values, torch's fused attention, logits for every position,
fused AdamW with weight decay on matrices, clipped gradients, blocks cut from one array of tokens, no padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from train_workload import SHAPES, Plan, Result


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        queries, keys, values = self.qkv(self.ln_1(x)).split(x.shape[-1], dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        x = x + self.project(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A decoder with learned positions; the output head is the embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of (B, T) targets."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


PARTS = {"ln_1": "ln_1", "ln_2": "ln_2", "qkv": "attn.c_attn", "project": "attn.c_proj", "up": "mlp.c_fc"}
PARTS["down"] = "mlp.c_proj"
WHOLE = {"tokens.weight": "wte.weight", "positions.weight": "wpe.weight", "norm.weight": "ln_f.weight"}
WHOLE["norm.bias"] = "ln_f.bias"


def load(folder: Path, plan: Plan) -> GPT:
    """Return the model with the weights of the common base, a GPT-2 in Hugging Face's layout."""
    from safetensors.torch import load_file

    shape = SHAPES[plan.shape]
    model = GPT(*(shape[name] for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")))
    there = load_file(folder / "base" / "model.safetensors")
    weights: dict[str, Tensor] = {}
    for name in model.state_dict():
        if name.startswith("blocks."):
            _, layer, part, kind = name.split(".")
            tensor = there[f"transformer.h.{layer}.{PARTS[part]}.{kind}"]
            weights[name] = tensor.T if tensor.ndim == 2 else tensor
        else:
            weights[name] = there["transformer." + WHOLE.get(name, WHOLE["tokens.weight"])]
    model.load_state_dict(weights)
    return model


def pretrain(folder: Path, plan: Plan, compile: bool = False) -> Result:
    """Train in a plain loop: a block of rows, loss, backward, clip, step."""
    model = load(folder, plan).to(plan.device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, plan.learning_rate, (0.9, 0.95), fused=True)
    rows = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False)
    run: Any = torch.compile(model) if compile else model
    result = Result(plan.device)
    for step in range(plan.steps):
        block = torch.from_numpy(rows[step * plan.step_rows : (step + 1) * plan.step_rows].copy()).to(plan.device)
        loss = run(block[:, :-1], block[:, 1:])
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        result.losses.append(loss.item())
        result.norms.append(norm.item())
        result.step_ends()
    return result
