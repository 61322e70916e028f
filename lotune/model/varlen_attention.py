"""Causal attention within each row of a packed line by torch's GPU kernels for rows of varied lengths.

T: tokens of a line. H: heads, of which G have keys of their own. E: size of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor


class VarlenArguments(NamedTuple):
    """Rows of a line for `varlen_attn`: the ends of their queries and keys, (1 + rows,) int32 from 0, and the longest.

    If `shared` tokens stand before all rows, `order` (int64) holds the indices of each row's keys in a line that has
    those tokens once for each row, followed by the rest. `max_head_size`: the largest E that the device's kernels take.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    shared: int
    order: Tensor
    max_head_size: int


def max_head_size(device: torch.device) -> int:
    """Return the largest E that torch's kernels for rows of varied lengths support on a device; 0 without kernels."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return 0
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0) or "enable_gqa" not in inspect.signature(varlen_attn).parameters:  # torch before 2.12
        return 0
    # The backward pass of larger heads needs more shared memory than other GPUs have.
    return 256 if capability in ((8, 0), (9, 0), (10, 0)) else 192


def varlen_arguments(row_lengths: Sequence[int], device: torch.device, max_head_size: int) -> VarlenArguments:
    """Return the rows of a line for `varlen_attn`; `row_lengths` as in `packed_attention_kwargs`.

    >>> arguments = varlen_arguments((2, 1, 3), torch.device("cpu"), 64)
    >>> arguments.cu_seqlens_q.tolist(), arguments.cu_seqlens_k.tolist()  # shared tokens are queries of row 1
    ([0, 3, 6], [0, 3, 8])
    >>> arguments.order.tolist()
    [0, 1, 4, 2, 3, 5, 6, 7]
    """
    shared, *own = row_lengths
    queries, keys = [shared + own[0], *own[1:]], [shared + length for length in own]
    query_ends, key_ends = (torch.tensor([0, *lengths]).cumsum(0).int().to(device) for lengths in (queries, keys))
    order = torch.empty(0, dtype=torch.int64)
    if shared:
        before = torch.arange(len(own) * shared).split(shared)
        after = torch.arange(len(own) * shared, sum(keys)).split(own)
        order = torch.cat([part for row in zip(before, after, strict=True) for part in row])
    return VarlenArguments(query_ends, key_ends, max(queries), max(keys), shared, order.to(device), max_head_size)


def has_kernel(query: Tensor, value: Tensor, segments: VarlenArguments) -> bool:
    """Return whether torch's kernels take heads of this dtype and size."""
    size = query.shape[-1]
    fits = size == value.shape[-1] and size % 8 == 0 and size <= segments.max_head_size
    return fits and query.dtype in (torch.bfloat16, torch.float16)


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, segments: VarlenArguments, scale: float) -> Tensor:
    """Return causal attention (T, H, E) within each row of a line; queries (T, H, E), keys and values (T, G, E).

    The mask is aligned at the end: the last query of a row sees its last key, so with fewer queries than keys the first
    query sees all shared keys.
    """
    from torch.nn.attention.varlen import varlen_attn

    if segments.shared:
        key, value = _with_shared(key, segments), _with_shared(value, segments)
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    ends = segments.cu_seqlens_q, segments.cu_seqlens_k, segments.max_seqlen_q, segments.max_seqlen_k
    output: Any = varlen_attn(query, key, value, *ends, scale=scale, window_size=(-1, 0), enable_gqa=True)
    return cast(Tensor, output)


def _with_shared(line: Tensor, segments: VarlenArguments) -> Tensor:
    """Return keys or values with the shared tokens before each row: (T, G, E) to (sum of the rows' keys, G, E)."""
    # Expanded before they are put in order, so that a single reduction sums their gradients and rounds once.
    rows, shared = len(segments.cu_seqlens_q) - 1, segments.shared
    spread = line[:shared].expand(rows, *line[:shared].shape).flatten(0, 1)  # (rows · shared, G, E)
    return torch.cat([spread, line[shared:]]).index_select(0, segments.order)
