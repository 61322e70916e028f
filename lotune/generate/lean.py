"""The forward pass of a Llama-shaped model over the slots of a cache, in few operations and without padding.

On a processor a pass of a small model is as long as its operations are many: this one makes a third of those that
transformers makes. Linear layers work on a line of all real tokens; rows are padded for attention alone.

Shapes: n rows of a pass, T places a row, L real tokens of all rows, D width, H heads, G key heads, E width of a head,
W what is attended to, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from lotune.generate.cache import SlotCache
from lotune.model.attention import Width, attend_widths

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far the hidden states may be from those of transformers, relative to their norm."""
_PROBE = (5, 3, 7, 2, 9, 4, 8, 6)
"""Token ids that every vocabulary has."""


@dataclass(frozen=True)
class Pass:
    """What is read at once: `input_ids` and `places` (n, T) int64, row i going to slot `first` + i.

    `seen` is W, the largest place of a real token + 1. `lengths`: how many tokens of each row are real, where not all
    are. `fresh`: rows are read from their beginning. `widths`: what blocks of rows attend to, one token a row.
    """

    first: int
    input_ids: Tensor
    places: Tensor
    seen: int
    lengths: Sequence[int] | None = None
    fresh: bool = False
    widths: Sequence[Width] | None = None


class Lean:
    """A model of transformers, read by its parts: weights are looked up in it at each pass, never copied."""

    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        self.embedding, self.layers, self.norm = decoder.embed_tokens, list(decoder.layers), decoder.norm
        self.rotary, self.head = decoder.rotary_emb, model.get_output_embeddings()
        attention = self.layers[0].self_attn
        self.size, self.scale = int(attention.head_dim), float(attention.scaling)
        self.cosines = self.sines = torch.empty(0)

    @staticmethod
    def of(model: Any) -> Lean | None:
        """The lean pass of a model of transformers; None where it has other parts or hooks, or is computed another way.

        That is found out by reading a few tokens both ways.
        """
        if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules()):
            return None
        training = model.training
        try:
            lean, cache = Lean(model.eval()), SlotCache(1, len(_PROBE))
            ids = torch.tensor([_PROBE], device=model.device)
            places = torch.arange(len(_PROBE), device=model.device)[None]
            lean.read(Pass(0, ids[:, :-1], places[:, :-1], ids.shape[1] - 1, fresh=True), None, cache)
            found = lean.logits(lean.read(Pass(0, ids[:, -1:], places[:, -1:], ids.shape[1]), None, cache))
            expected = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError):
            return None
        finally:
            model.train(training)
        near = (found - expected).norm() <= TOLERANCE.get(model.dtype, 0.0) * expected.norm()
        return lean if found.shape == expected.shape and bool(near) else None

    def read(self, what: Pass, mask: Tensor | None, cache: SlotCache) -> Tensor:
        """Hidden states (L, D), before the last norm, of the real tokens, whose keys and values enter the cache.

        `mask` (n, 1, T, W) is added to the scores; a fresh pass needs none, nor does one of a single token.
        """
        rows, width = what.input_ids.shape
        real = _real(what.lengths, width, what.input_ids.device)
        slots = torch.arange(what.first, what.first + rows, device=what.places.device)[:, None].expand(rows, width)
        ids, places, slots = (_line(tensor, real) for tensor in (what.input_ids, what.places, slots))
        self._know(what.seen)
        turn = self.cosines[places], self.sines[places]
        hidden: Tensor = self.embedding(ids)
        for number, layer in enumerate(self.layers):
            attention, mlp = layer.self_attn, layer.mlp
            x = _normed(layer.input_layernorm, hidden)
            query, key, value = (
                _projected(part, x).unflatten(-1, (-1, self.size))
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            if hasattr(attention, "q_norm"):
                query, key = _normed(attention.q_norm, query), _normed(attention.k_norm, key)
            keys, values = cache.at(number).put(slots, places, _turned(key, *turn), value)
            seen = self._attended(_padded(_turned(query, *turn), real, rows, width), keys, values, mask, what)
            _add_projected(attention.o_proj, _line(seen, real).flatten(1), hidden)
            x = _normed(layer.post_attention_layernorm, hidden)
            gate = mlp.act_fn(_projected(mlp.gate_proj, x))
            _add_projected(mlp.down_proj, gate.mul_(_projected(mlp.up_proj, x)), hidden)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (n, V) of hidden states (n, D)."""
        found: Tensor = _projected(self.head, _normed(self.norm, hidden))
        return found

    def _know(self, places: int) -> None:
        """Have the turns of so many places, (places, 1, E) each, with the sign that `_turned` needs."""
        if len(self.cosines) >= places:
            return
        like = self.embedding.weight
        cosines, sines = self.rotary(like, torch.arange(2 * places, device=like.device)[None])
        half = self.size // 2
        self.cosines = cosines[0, :, None]
        self.sines = torch.cat((-sines[0, :, None, :half], sines[0, :, None, half:]), -1)

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, what: Pass) -> Tensor:
        """What queries (n, T, H, E) find in the slots' keys and values (S, G, C, E): (n, T, H, E)."""
        rows, width, heads, _ = query.shape
        slots, repeats = slice(what.first, what.first + rows), heads // keys.shape[1]
        keys, values = keys[slots, :, : what.seen], values[slots, :, : what.seen]
        if what.fresh:
            if repeats > 1:
                keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
            found = scaled_dot_product_attention(query.transpose(1, 2), keys, values, is_causal=True, scale=self.scale)
            return found.transpose(1, 2)
        # heads that share keys are taken as further queries of one head, so that no key is copied
        query = query.unflatten(2, (-1, repeats)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        if what.widths is not None and mask is not None:
            found = attend_widths(query, keys, values, mask, what.widths, self.scale)
        else:
            if mask is not None and width > 1:
                mask = mask.repeat(1, 1, repeats, 1)
            found = scaled_dot_product_attention(query, keys, values, mask, scale=self.scale)
        apart: Tensor = found.unflatten(2, (-1, width))
        return apart.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    """Divided by the root of the mean square, in float32, times the norm's weight."""
    wide = hidden.float()
    mean = wide.square().mean(-1, keepdim=True)
    found: Tensor = (wide * mean.add_(norm.variance_epsilon).rsqrt_()).to(hidden.dtype).mul_(norm.weight)
    return found


def _projected(layer: Any, hidden: Tensor) -> Tensor:
    """A linear layer, plain or adapted or quantised, applied to (L, D)."""
    found: Tensor = linear(hidden, layer.weight, layer.bias) if type(layer) is nn.Linear else layer(hidden)
    return found


def _add_projected(layer: Any, hidden: Tensor, to: Tensor) -> None:
    if type(layer) is nn.Linear and layer.bias is None:
        to.addmm_(hidden, layer.weight.T)
    else:
        to.add_(layer(hidden))


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions of heads (L, ., E): pairs half a head apart are turned by the angles of their place."""
    return torch.addcmul(heads * cosines, heads.roll(heads.shape[-1] // 2, -1), sines)


def _real(lengths: Sequence[int] | None, width: int, device: torch.device) -> Tensor | None:
    """The places of the real tokens among n x T, (L,) int64; None where all are real."""
    if lengths is None or min(lengths) == width:
        return None
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).flatten().nonzero()[:, 0].to(device)


def _line(padded: Tensor, real: Tensor | None) -> Tensor:
    """(n, T, ...) to the real tokens (L, ...)."""
    flat = padded.flatten(0, 1)
    return flat if real is None else flat[real]


def _padded(line: Tensor, real: Tensor | None, rows: int, width: int) -> Tensor:
    """The real tokens (L, ...) to (n, T, ...), zero elsewhere."""
    if real is not None:
        line = line.new_zeros((rows * width, *line.shape[1:])).index_copy_(0, real, line)
    rectangle: Tensor = line.unflatten(0, (rows, width))
    return rectangle
