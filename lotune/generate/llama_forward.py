"""The forward pass of a Llama-shaped model over the slots of a cache, in place and without padding.

It is faster than transformers' own pass: linear layers work on a line of all real tokens and rows are padded for
attention only, intermediate results are changed in place, keys that heads share are not copied for a step, and plain
linear layers are applied without calling their module.

Shapes: n rows of a pass, T tokens of a row in a pass, L real tokens of all rows, D hidden size, H heads, G key heads,
E head size, S slots, C capacity of a slot, W attended length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lotune.generate.kv_cache import SlotCache
from lotune.generate.packed_linear import PackedLinears
from lotune.model.attention import KeySpan, bucketed_decode_attention
from lotune.model.eval_mode import eval_mode
from lotune.model.methods.registry import needs_wrapper
from lotune.model.probes import PROBE_ROWS, is_close

SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Types of model (`model_type` in config.json) that compute this formula."""
MAX_GROUPED_QUERIES = 32
"""Number of tokens of a row up to which copying the mask for each head is cheaper than copying the keys."""
SUPPORTED_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class ForwardInput:
    """The input of one pass: `input_ids` and `position_ids` (n, T) int64, row i going to slot `first_slot` + i.

    `attended_length` is W, the largest position of a real token + 1. `lengths` has the number of real tokens of each
    row if there is padding. `fresh`: rows start at their beginning. `key_spans` has the attended length of blocks of
    rows if each row has one token. `adapter_names` has the adapter of each row if any row names one. `scored` has the
    number of last tokens of each row whose logits are wanted if they are not wanted of all; only the fast pass has it.
    """

    first_slot: int
    input_ids: Tensor
    position_ids: Tensor
    attended_length: int
    lengths: Sequence[int] | None = None
    fresh: bool = False
    key_spans: Sequence[KeySpan] | None = None
    adapter_names: Sequence[str] | None = None
    scored: Sequence[int] | None = None

    def with_adapters(self, names: Sequence[str] | None) -> ForwardInput:
        """Return the input with the adapter of each row."""
        return self if names is None else replace(self, adapter_names=names)

    def token_adapters(self) -> list[str] | None:
        """Return the adapter of each real token, (L,), or None if no row names one."""
        if self.adapter_names is None:
            return None
        rows, length = self.input_ids.shape
        lengths = self.lengths if self.lengths is not None else [length] * rows
        return [name for name, count in zip(self.adapter_names, lengths, strict=True) for _ in range(count)]

    def scored_tokens(self) -> list[int] | None:
        """Return the indices of the real tokens whose logits are wanted, or None if those of all are."""
        if self.scored is None or self.lengths is None:
            return None
        ends = accumulate(self.lengths)
        return [place for end, count in zip(ends, self.scored, strict=True) for place in range(end - count, end)]


class LlamaForward:
    """The forward pass of a transformers model, whose modules are looked up at each pass."""

    def __init__(self, base: Any) -> None:
        self.base, self.decoder = base, base.get_decoder()
        attention = self.decoder.layers[0].self_attn
        self.head_size, self.scale = int(attention.head_dim), float(attention.scaling)
        self.cosines = self.sines = torch.empty(0)
        self.linears = PackedLinears(base)

    @staticmethod
    @torch.inference_mode()
    def of(model: Any, base: Any) -> LlamaForward | None:
        """Return the fast pass of `base`, the transformers model in an adapted or plain `model`, or None.

        A model has one if its type is supported, no hooks are attached, and a probe gives the logits of the model's own
        pass.
        """
        if base.config.model_type not in SUPPORTED_MODEL_TYPES or needs_wrapper(model):
            return None
        if any(map(_has_hooks, model.modules())):
            return None
        ids = torch.tensor([PROBE_ROWS[0]], device=base.device)  # (1, T)
        positions, last = torch.arange(len(PROBE_ROWS[0]), device=base.device)[None], len(PROBE_ROWS[0]) - 1
        try:
            with eval_mode(model):
                fast, cache = LlamaForward(base), SlotCache(1, len(PROBE_ROWS[0]))
                # Packing copies all weights, which a probe is not worth; the first answers pack them.
                packs, fast.linears.enabled = fast.linears.enabled, False
                fast.forward(ForwardInput(0, ids[:, :last], positions[:, :last], last, fresh=True), None, cache)
                hidden = fast.forward(ForwardInput(0, ids[:, last:], positions[:, last:], last + 1), None, cache)
                logits = fast.logits(hidden)
                expected = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
            return None
        fast.linears.enabled = packs
        return fast if base.dtype in SUPPORTED_DTYPES and is_close(logits, expected, base.dtype) else None

    def forward(self, inputs: ForwardInput, mask: Tensor | None, cache: SlotCache) -> Tensor:
        """Return the hidden states (L, D) of the real tokens before the last norm; write keys and values to the cache.

        `mask` (n, 1, T, W) is added to the scores; a fresh pass or a single token needs no mask.
        """
        rows, length = inputs.input_ids.shape
        real, names = _real_token_index(inputs.lengths, length, inputs.input_ids.device), inputs.token_adapters()
        first, device = inputs.first_slot, inputs.position_ids.device
        slots = torch.arange(first, first + rows, device=device)[:, None].expand(rows, length)  # (n, T)
        # (n, T) -> (L,)
        ids, positions, slots = (_unpad(tensor, real) for tensor in (inputs.input_ids, inputs.position_ids, slots))
        self._extend_rope_tables(inputs.attended_length)
        rotation = self.cosines[positions], self.sines[positions]  # (L, 1, E) each
        hidden: Tensor = self.decoder.embed_tokens(ids)  # (L, D)
        for number, layer in enumerate(self.decoder.layers):
            attention, mlp = layer.self_attn, layer.mlp
            x = _rms_norm(layer.input_layernorm, hidden)
            # (L, D) -> (L, H, E) and twice (L, G, E)
            query, key, value = (
                part.unflatten(-1, (-1, self.head_size))
                for part in self.linears.apply_each((attention.q_proj, attention.k_proj, attention.v_proj), x, names)
            )
            if hasattr(attention, "q_norm"):
                query, key = _rms_norm(attention.q_norm, query), _rms_norm(attention.k_norm, key)
            keys, values = cache.at(number).write(slots, positions, _apply_rotary(key, *rotation), value)
            query = _pad(_apply_rotary(query, *rotation), real, rows, length)  # (L, H, E) -> (n, T, H, E)
            attended = _unpad(self._attention(query, keys, values, mask, inputs), real).flatten(1)  # (L, H * E)
            hidden += self.linears(attention.o_proj, attended, names)  # (L, D)
            x = _rms_norm(layer.post_attention_layernorm, hidden)
            gate, up = self.linears.apply_each((mlp.gate_proj, mlp.up_proj), x, names)  # (L, intermediate size) each
            hidden += self.linears(mlp.down_proj, mlp.act_fn(gate).mul_(up), names)  # (L, D)
        return hidden

    def logits(self, hidden: Tensor, adapter_names: Sequence[str] | None = None) -> Tensor:
        """Return logits (n, V) of hidden states (n, D), optionally with an adapter for each."""
        return self.linears(self.base.get_output_embeddings(), _rms_norm(self.decoder.norm, hidden), adapter_names)

    def takes_adapter_names(self, model: Any) -> bool:
        """Return whether rows can have different adapters, which holds if adapters change only linear layers.

        PEFT passes the names of adapters to other modules, such as a replaced norm or embedding, through its wrapper.
        """
        parts = {self.base.get_output_embeddings()}
        for layer in self.decoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            parts |= {attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj}
            parts |= {mlp.gate_proj, mlp.up_proj, mlp.down_proj}
        modules = list(model.modules())
        replaced = any("original_module" in module._modules for module in modules)
        return not replaced and all(module in parts for module in modules if "base_layer" in module._modules)

    def _extend_rope_tables(self, positions: int) -> None:
        """Extend the tables to `positions` positions, (positions, 1, E), with the signs that `_apply_rotary` needs."""
        if len(self.cosines) >= positions:
            return
        like = self.decoder.norm.weight
        # Twice as many positions as needed, so that answers that grow token by token rarely extend the tables.
        cosines, sines = self.decoder.rotary_emb(like, torch.arange(2 * positions, device=like.device)[None])
        half = self.head_size // 2
        # (1, positions, E) -> (positions, 1, E)
        self.sines = torch.cat((-sines[0, :, None, :half], sines[0, :, None, half:]), -1)
        self.cosines = cosines[0, :, None]  # last, as its length says how far the tables go

    def _attention(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, inputs: ForwardInput
    ) -> Tensor:
        """Return the attention of queries (n, T, H, E) to the slots' keys and values (S, G, C, E): (n, T, H, E)."""
        rows, length, heads, _ = query.shape
        slots, repeats = slice(inputs.first_slot, inputs.first_slot + rows), heads // keys.shape[1]
        keys, values = (
            keys[slots, :, : inputs.attended_length],
            values[slots, :, : inputs.attended_length],
        )  # (n, G, W, E)
        if length > MAX_GROUPED_QUERIES or (inputs.fresh and length > 1):
            if repeats > 1:  # (n, G, W, E) -> (n, H, W, E)
                keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
            attended = scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, mask, is_causal=inputs.fresh, scale=self.scale
            )
            return attended.transpose(1, 2)  # (n, H, T, E) -> (n, T, H, E)
        # heads that share keys are taken as further queries of one head, so that no key is copied, but the mask
        query = query.unflatten(2, (-1, repeats)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # (n, G, H / G * T, E)
        if length > 1 and mask is not None:
            mask = mask.repeat(1, 1, repeats, 1)  # (n, 1, T, W) -> (n, 1, H / G * T, W)
        if inputs.key_spans is not None and mask is not None:
            attended = bucketed_decode_attention(query, keys, values, mask, inputs.key_spans, self.scale)
        else:
            attended = scaled_dot_product_attention(query, keys, values, mask, scale=self.scale)
        # (n, G, H / G * T, E) -> (n, G, H / G, T, E) -> (n, T, H, E)
        grouped: Tensor = attended.unflatten(2, (repeats, length))
        return grouped.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks, or a forward method that replaces that of its class."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """Divide by the root of the mean square over the last dimension, in float32, and multiply by the norm's weight."""
    hidden32 = hidden.float()
    mean = hidden32.square().mean(-1, keepdim=True)  # (..., 1)
    normed: Tensor = (hidden32 * mean.add_(norm.variance_epsilon).rsqrt_()).to(hidden.dtype).mul_(norm.weight)
    return normed


def _apply_rotary(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate heads (L, ., E): elements half a head apart form pairs that turn by the angle of their position."""
    return torch.addcmul(heads * cosines, heads.roll(heads.shape[-1] // 2, -1), sines)


def _real_token_index(lengths: Sequence[int] | None, length: int, device: torch.device) -> Tensor | None:
    """Return the indices of the real tokens among n x T, (L,) int64; None where all are real."""
    if lengths is None or min(lengths) == length:
        return None
    return (torch.arange(length) < torch.tensor(lengths)[:, None]).flatten().nonzero()[:, 0].to(device)


def _unpad(padded: Tensor, real: Tensor | None) -> Tensor:
    """Return the real tokens (L, ...) of padded rows (n, T, ...)."""
    flat = padded.flatten(0, 1)  # (n * T, ...)
    return flat if real is None else flat[real]


def _pad(line: Tensor, real: Tensor | None, rows: int, length: int) -> Tensor:
    """Return the real tokens (L, ...) as padded rows (n, T, ...), zero elsewhere."""
    if real is not None:  # (L, ...) -> (n * T, ...)
        line = line.new_zeros((rows * length, *line.shape[1:])).index_copy_(0, real, line)
    rectangle: Tensor = line.unflatten(0, (rows, length))
    return rectangle
