"""Attention for rows that lie one after the other in one line, without padding and without seeing each other.

The linear layers of a model work on a line (1, T) of whole rows. Attention takes queries, keys and values apart into
rows again (`lotune.model.packed_attention`), or hands the line to a GPU's kernel (`lotune.model.varlen_attention`). It
is registered with transformers, so that every architecture that looks up its attention there can use it.

T: tokens of a line. H: heads, of which G have keys of their own. E: size of a head. B: rows of a batch. L: keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lotune.model.packed_attention import bucketed_attention, packed_attention
from lotune.model.varlen_attention import (
    VarlenArguments,
    has_kernel,
    max_head_size,
    varlen_arguments,
    varlen_attention,
)

ATTENTION_NAME = "lotune_packed"
"""The name under which transformers knows it."""

KeySpan = tuple[int, int, int]
"""Rows of a batch, from the first to before the last, and the number of keys that they see."""


def register_packed_attention(model: Any) -> None:
    """Let a model take lines of packed rows (`packed_attention_kwargs`); without them it attends as with "sdpa"."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(ATTENTION_NAME)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: Tensor | None = None,
    widths: Sequence[KeySpan] | None = None,
    segments: VarlenArguments | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Return attention (B, T, H, E) as transformers calls it: queries (B, H, T, E), keys and values (B, G, T, E)."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "dropout") if rest.get(name)]
    if widths is not None and attention_mask is not None and not unknown:
        return _decode_attention(query, key, value, attention_mask, widths, rest.get("scaling")), None
    if row_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return output
    if unknown:
        raise ValueError(f"packed attention has no {unknown[0]}")
    scale = rest.get("scaling") or query.shape[-1] ** -0.5
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # rotary positions leave queries and keys in float32, but not values
        query, key, value = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (query, key, value))
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, H or G, E)
    if segments is not None and has_kernel(query, value, segments):
        return varlen_attention(query, key, value, segments, scale)[None], None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)  # (T, H, E)
    if query.device.type == "cpu":
        return packed_attention(query, key, value, row_lengths, scale)[0][None], None
    return bucketed_attention(query, key, value, row_lengths, scale)[None], None


def _decode_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, widths: Sequence[KeySpan], scale: float | None
) -> Tensor:
    """Return attention (B, 1, H, E) of one query a row (B, H, 1, E), each block of rows to the keys that it sees.

    Heads that share keys become further queries of one head, so that no key is copied.
    """
    rows, heads, _, size = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1], size)  # (B, G, H / G, E)
    return bucketed_decode_attention(queries, key, value, mask, widths, scale).view(rows, 1, heads, size)


def bucketed_decode_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, widths: Sequence[KeySpan], scale: float | None
) -> Tensor:
    """Return attention (B, H, Q, E) of queries to keys and values (B, H, L, E), each block of rows to those it sees."""
    output = torch.empty_like(queries)
    for first, last, length in widths:
        part = slice(first, last)
        output[part] = scaled_dot_product_attention(
            queries[part], keys[part, :, :length], values[part, :, :length], mask[part, ..., :length], scale=scale
        )
    return output


def packed_attention_kwargs(row_lengths: Tensor) -> dict[str, Any]:
    """Return the arguments that a model with packed attention takes for a line of rows.

    `row_lengths` (1 + rows,) int64, on the model's device: the tokens at the start of the line that all rows share,
    then those of each row. transformers takes a mask of four dimensions as it is, so this one keeps it from making its
    own.
    """
    device, on_cpu = row_lengths.device, row_lengths.cpu()
    kwargs = {"row_lengths": on_cpu, "attention_mask": torch.zeros(1, 1, 1, 1)}
    head_size = max_head_size(device)
    return kwargs | ({"segments": varlen_arguments(on_cpu.tolist(), device, head_size)} if head_size else {})
