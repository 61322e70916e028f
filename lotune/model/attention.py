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
"""The name under which the attention is registered with transformers."""

KeySpan = tuple[int, int, int]
"""(first row, row after the last, number of keys): the rows of a batch that attend to the first so many keys."""


def register_packed_attention(model: Any) -> None:
    """Make a model accept packed rows (see `packed_attention_kwargs`); other batches are computed as with "sdpa"."""
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
    key_spans: Sequence[KeySpan] | None = None,
    segments: VarlenArguments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention (B, T, H, E), None; transformers passes queries (B, H, T, E), keys and values (B, G, T, E).

    With `row_lengths` the line is packed; with `key_spans` each row has one query, a step of generation; without
    either this is "sdpa".
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "dropout") if kwargs.get(name)]
    if key_spans is not None and attention_mask is not None and not unknown:
        return _decode_attention(query, key, value, attention_mask, key_spans, kwargs.get("scaling")), None
    if row_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output
    if unknown:
        raise ValueError(f"packed attention has no {unknown[0]}")
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    kind = query.device.type
    # Autocast rounds the values only: rotary positions are added in float32 and leave queries and keys in it.
    if torch.is_autocast_enabled(kind):
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
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, key_spans: Sequence[KeySpan], scale: float | None
) -> Tensor:
    """Return attention (B, 1, H, E) of one query per row (B, H, 1, E); each block of rows attends to its own keys.

    Heads that share keys become further queries of one head, so that no key is copied.
    """
    rows, heads, _, size = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1], size)  # (B, G, H / G, E)
    return bucketed_decode_attention(queries, key, value, mask, key_spans, scale).view(rows, 1, heads, size)


def bucketed_decode_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, key_spans: Sequence[KeySpan], scale: float | None
) -> Tensor:
    """Return attention (B, H, Q, E) of queries to keys and values (B, H, L, E), within the key span of each row."""
    output = torch.empty_like(queries)
    for first, last, length in key_spans:
        part = slice(first, last)
        output[part] = scaled_dot_product_attention(
            queries[part], keys[part, :, :length], values[part, :, :length], mask[part, ..., :length], scale=scale
        )
    return output


def packed_attention_kwargs(row_lengths: Tensor) -> dict[str, Any]:
    """Return the arguments that a model with packed attention takes for a line of rows.

    `row_lengths` (1 + rows,) int64, on the model's device: the number of tokens at the start of the line that all rows
    share, then the number of tokens of each row.
    """
    device, on_cpu = row_lengths.device, row_lengths.cpu()
    # transformers uses a mask of four dimensions as it is. Without one, it would build a causal mask of the whole line.
    kwargs = {"row_lengths": on_cpu, "attention_mask": torch.zeros(1, 1, 1, 1)}
    head_size = max_head_size(device)
    return kwargs | ({"segments": varlen_arguments(on_cpu.tolist(), device, head_size)} if head_size else {})
