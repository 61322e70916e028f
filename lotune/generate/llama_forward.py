"""The forward pass of a Llama-shaped model over the slots of a cache, in place and without padding.

Linear layers work on a line of all real tokens, and rows are padded for attention alone; what one operation made the
next one changes in place; keys that heads share are not copied for a step; plain linear layers skip their module.

Shapes: n rows of a pass, T places a row, L real tokens of all rows, D width, H heads, G key heads, E width of a head,
W what is attended to, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lotune.generate.kv_cache import SlotCache
from lotune.generate.packed_linear import PackedLinears
from lotune.model.attention import KeySpan, bucketed_decode_attention
from lotune.model.eval_mode import PROBE_TOKEN_IDS, eval_mode
from lotune.model.methods.registry import needs_wrapper

SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Types of model (`model_type` in config.json) whose formula this is."""
BF16_TOLERANCE = 5e-2
MAX_GROUPED_QUERIES = 32
"""Tokens of a row for which copying the mask for each head takes less than copying the keys."""
LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: BF16_TOLERANCE}
"""How far logits may be from those of transformers, relative to their norm."""


@dataclass(frozen=True)
class ForwardInput:
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
    widths: Sequence[KeySpan] | None = None


class LlamaForward:
    """A model of transformers, read by its parts, which are looked up in it at each pass."""

    def __init__(self, base: Any) -> None:
        self.base, self.decoder = base, base.get_decoder()
        attention = self.decoder.layers[0].self_attn
        self.size, self.scale = int(attention.head_dim), float(attention.scaling)
        self.cosines = self.sines = torch.empty(0)
        self.products = PackedLinears(base)

    @staticmethod
    @torch.inference_mode()
    def of(model: Any, base: Any) -> LlamaForward | None:
        """The lean pass of `base`, the model of transformers in an adapted or plain `model`; None where it has none.

        It has one where its kind is known and nothing else lays hands on it: a few tokens are read both ways.
        """
        if base.config.model_type not in SUPPORTED_MODEL_TYPES or needs_wrapper(model):
            return None
        if any(map(_has_hooks, model.modules())):
            return None
        ids = torch.tensor([PROBE_TOKEN_IDS], device=base.device)
        places, last = torch.arange(len(PROBE_TOKEN_IDS), device=base.device)[None], len(PROBE_TOKEN_IDS) - 1
        try:
            with eval_mode(model):
                lean, cache = LlamaForward(base), SlotCache(1, len(PROBE_TOKEN_IDS))
                packs, lean.products.enabled = lean.products.enabled, False  # until there is something to answer
                lean.forward(ForwardInput(0, ids[:, :last], places[:, :last], last, fresh=True), None, cache)
                found = lean.logits(
                    lean.forward(ForwardInput(0, ids[:, last:], places[:, last:], last + 1), None, cache)
                )
                expected = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
            return None
        lean.products.enabled = packs
        return lean if base.dtype in LOGIT_TOLERANCE and logits_close(found, expected, base.dtype) else None

    def forward(self, what: ForwardInput, mask: Tensor | None, cache: SlotCache) -> Tensor:
        """Hidden states (L, D), before the last norm, of the real tokens, whose keys and values enter the cache.

        `mask` (n, 1, T, W) is added to the scores; a fresh pass needs none, nor does one of a single token.
        """
        rows, width = what.input_ids.shape
        real = _real_token_index(what.lengths, width, what.input_ids.device)
        slots = torch.arange(what.first, what.first + rows, device=what.places.device)[:, None].expand(rows, width)
        ids, places, slots = (_unpad(tensor, real) for tensor in (what.input_ids, what.places, slots))
        self._extend_rope_tables(what.seen)
        turn = self.cosines[places], self.sines[places]
        hidden: Tensor = self.decoder.embed_tokens(ids)
        for number, layer in enumerate(self.decoder.layers):
            attention, mlp = layer.self_attn, layer.mlp
            x = _rms_norm(layer.input_layernorm, hidden)
            query, key, value = (
                self.products(part, x).unflatten(-1, (-1, self.size))
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            if hasattr(attention, "q_norm"):
                query, key = _rms_norm(attention.q_norm, query), _rms_norm(attention.k_norm, key)
            keys, values = cache.at(number).write(slots, places, _apply_rotary(key, *turn), value)
            seen = self._attention(_pad(_apply_rotary(query, *turn), real, rows, width), keys, values, mask, what)
            hidden += self.products(attention.o_proj, _unpad(seen, real).flatten(1))
            x = _rms_norm(layer.post_attention_layernorm, hidden)
            gate = mlp.act_fn(self.products(mlp.gate_proj, x))
            hidden += self.products(mlp.down_proj, gate.mul_(self.products(mlp.up_proj, x)))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (n, V) of hidden states (n, D)."""
        return self.products(self.base.get_output_embeddings(), _rms_norm(self.decoder.norm, hidden))

    def _extend_rope_tables(self, places: int) -> None:
        """Have the turns of so many places, (places, 1, E) each, with the sign that `_apply_rotary` needs."""
        if len(self.cosines) >= places:
            return
        like = self.decoder.norm.weight
        cosines, sines = self.decoder.rotary_emb(like, torch.arange(2 * places, device=like.device)[None])
        half = self.size // 2
        self.sines = torch.cat((-sines[0, :, None, :half], sines[0, :, None, half:]), -1)
        self.cosines = cosines[0, :, None]  # last: its length says what is there

    def _attention(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, what: ForwardInput
    ) -> Tensor:
        """What queries (n, T, H, E) find in the slots' keys and values (S, G, C, E): (n, T, H, E)."""
        rows, width, heads, _ = query.shape
        slots, repeats = slice(what.first, what.first + rows), heads // keys.shape[1]
        keys, values = keys[slots, :, : what.seen], values[slots, :, : what.seen]
        if width > MAX_GROUPED_QUERIES or (what.fresh and width > 1):
            if repeats > 1:
                keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
            found = scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, mask, is_causal=what.fresh, scale=self.scale
            )
            return found.transpose(1, 2)
        # heads that share keys are taken as further queries of one head, so that no key is copied, but the mask
        query = query.unflatten(2, (-1, repeats)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        if width > 1 and mask is not None:
            mask = mask.repeat(1, 1, repeats, 1)
        if what.widths is not None and mask is not None:
            found = bucketed_decode_attention(query, keys, values, mask, what.widths, self.scale)
        else:
            found = scaled_dot_product_attention(query, keys, values, mask, scale=self.scale)
        apart: Tensor = found.unflatten(2, (repeats, width))
        return apart.permute(0, 3, 1, 2, 4).flatten(2, 3)


def logits_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits are those expected of weights of a dtype, but for rounding; masked tokens (-inf) stay masked."""
    masked = expected == -math.inf
    if not torch.equal(found == -math.inf, masked):
        return False
    found, expected = found.masked_fill(masked, 0), expected.masked_fill(masked, 0)
    return bool((found - expected).norm() <= LOGIT_TOLERANCE.get(dtype, BF16_TOLERANCE) * expected.norm())


def _has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, or a forward of its own laid over that of its class."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """Divided by the root of the mean square, in float32, times the norm's weight."""
    wide = hidden.float()
    mean = wide.square().mean(-1, keepdim=True)
    found: Tensor = (wide * mean.add_(norm.variance_epsilon).rsqrt_()).to(hidden.dtype).mul_(norm.weight)
    return found


def _apply_rotary(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions of heads (L, ., E): pairs half a head apart are turned by the angles of their place."""
    return torch.addcmul(heads * cosines, heads.roll(heads.shape[-1] // 2, -1), sines)


def _real_token_index(lengths: Sequence[int] | None, width: int, device: torch.device) -> Tensor | None:
    """The places of the real tokens among n x T, (L,) int64; None where all are real."""
    if lengths is None or min(lengths) == width:
        return None
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).flatten().nonzero()[:, 0].to(device)


def _unpad(padded: Tensor, real: Tensor | None) -> Tensor:
    """(n, T, ...) to the real tokens (L, ...)."""
    flat = padded.flatten(0, 1)
    return flat if real is None else flat[real]


def _pad(line: Tensor, real: Tensor | None, rows: int, width: int) -> Tensor:
    """The real tokens (L, ...) to (n, T, ...), zero elsewhere."""
    if real is not None:
        line = line.new_zeros((rows * width, *line.shape[1:])).index_copy_(0, real, line)
    rectangle: Tensor = line.unflatten(0, (rows, width))
    return rectangle
