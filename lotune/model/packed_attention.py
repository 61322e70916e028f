"""Causal attention within each row of a packed line, by groups of rows of similar length, forward and backward.

T: tokens of a line. H: heads. E: size of a head. B, L: rows of a group, tokens of its longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MAX_BUCKET_RATIO = 1.3
"""A row joins the group of a longer one that is at most this many times as long."""
MAX_FLOAT32_LENGTH = 512
"""Rows of at most this many tokens get their gradients in float32, as small products are slower in bfloat16."""


class LengthBucket(NamedTuple):
    """Rows of similar length.

    `indices` (B, L): positions of their tokens in the line. `real`, `own`: those of the B·L tokens that are no padding,
    and those that belong to the row; what all rows share belongs to the first one. `is_line`: whether the group is the
    line itself, cut into rows of one length.
    """

    indices: Tensor
    real: Tensor
    own: Tensor
    is_line: bool


@lru_cache(maxsize=4)
def length_buckets(row_lengths: tuple[int, ...], device: str = "cpu") -> list[LengthBucket]:
    """Return the rows of a line in groups of similar length, the longest first.

    `row_lengths`: the tokens at the start of the line that all rows share, then those of each row.

    >>> [bucket.indices.tolist() for bucket in length_buckets((0, 2, 5, 4))]
    [[[2, 3, 4, 5, 6], [7, 8, 9, 10, 7]], [[0, 1]]]
    >>> [bucket.indices.tolist() for bucket in length_buckets((1, 2, 2))]
    [[[0, 1, 2], [0, 3, 4]]]
    """
    shared, *lengths = row_lengths
    starts = torch.tensor(row_lengths).cumsum(0).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [_bucket(rows, shared, lengths, starts, device) for rows in _similar(order, shared, lengths)]


def _similar(order: list[int], shared: int, lengths: list[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for row in order:
        if group and (shared + lengths[row]) * MAX_BUCKET_RATIO < shared + lengths[group[0]]:
            yield group
            group = []
        group.append(row)
    yield group


def _bucket(rows: list[int], shared: int, lengths: list[int], starts: list[int], device: str) -> LengthBucket:
    column = torch.arange(shared + lengths[rows[0]])  # (L,)
    first = torch.tensor([starts[row] for row in rows])[:, None]  # (B, 1)
    real = column < torch.tensor([shared + lengths[row] for row in rows])[:, None]  # (B, L)
    own = real & ((column >= shared) | (torch.tensor(rows) == 0)[:, None])
    indices = torch.where(real, torch.where(column < shared, column, first + column - shared), first)  # (B, L)
    in_real, in_own = (part.flatten().nonzero()[:, 0].to(device) for part in (real, own))
    is_line = torch.equal(indices.flatten(), torch.arange(shared + sum(lengths)))
    return LengthBucket(indices.to(device), in_real, in_own, is_line)


def _gather_rows(tensor: Tensor, bucket: LengthBucket) -> Tensor:
    """Return the rows of a group from a line: (T, H, E) to (B, H, L, E), a view if the group is the whole line."""
    rows = tensor.unflatten(0, tuple(bucket.indices.shape)) if bucket.is_line else tensor[bucket.indices]
    # The kernels assume a last stride of 1 and do not check it.
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    return rows.transpose(1, 2)


def _scatter_rows(line: Tensor, rows: Tensor, bucket: LengthBucket) -> None:
    """Write the own tokens of a group's rows (B, H, L, ...) into a line (T, H, ...)."""
    line[bucket.indices.flatten()[bucket.own]] = _in_line(rows)[bucket.own].to(line.dtype)


def _scatter_add_rows(line: Tensor, rows: Tensor, bucket: LengthBucket) -> None:
    """Add the rows (B, H, L, E) of a group to a line (T, H, E); shared tokens get the sum."""
    line.index_add_(0, bucket.indices.flatten()[bucket.real], _in_line(rows)[bucket.real].to(line.dtype))


def _in_line(rows: Tensor) -> Tensor:
    """Return rows (B, H, L, ...) one after the other with padding: (B·L, H, ...), a view of what the kernels made."""
    return rows.transpose(1, 2).flatten(0, 1)  # (B·L, H, ...)


def bucketed_attention(query: Tensor, key: Tensor, value: Tensor, row_lengths: Tensor, scale: float) -> Tensor:
    """Return causal attention within each row of a line, all (T, H, E), on any device."""
    out = torch.empty_like(value)
    for bucket in _buckets_of(row_lengths, query):
        q, k, v = (_gather_rows(tensor, bucket) for tensor in (query, key, value))  # (B, H, L, E)
        _scatter_rows(out, scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale), bucket)
    return out


def _buckets_of(row_lengths: Tensor, like: Tensor) -> list[LengthBucket]:
    return length_buckets(tuple(row_lengths.tolist()), str(like.device))


@torch.library.custom_op("lotune::packed_attention", mutates_args=())
def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, row_lengths: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Return causal attention within each row of a line, all (T, H, E), and the softmax's log-sum-exp (T, H), float32.

    It is registered as one operation, because `torch.compile` cannot trace the loop over the groups.
    """
    out, logsumexp = value.new_empty(value.shape), query.new_empty(query.shape[:2], dtype=torch.float32)
    for bucket in _buckets_of(row_lengths, query):
        q, k, v = (_gather_rows(tensor, bucket) for tensor in (query, key, value))  # (B, H, L, E)
        rows, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        if bucket.is_line:
            return _in_line(rows).contiguous(), _in_line(sums).contiguous()
        _scatter_rows(out, rows, bucket)
        _scatter_rows(logsumexp, sums, bucket)
    return out, logsumexp


@packed_attention.register_fake
def _packed_attention_shapes(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), query.new_empty(query.shape[:2], dtype=torch.float32)


@torch.library.custom_op("lotune::packed_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    lengths: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: list[Tensor] = []
    for bucket in _buckets_of(lengths, query):
        g, q, k, v, o, sums = (
            _gather_rows(tensor, bucket) for tensor in (grad, query, key, value, out, logsumexp[..., None])
        )  # (B, H, L, E) each, sums (B, H, L, 1)
        if len(bucket.own) < bucket.indices.numel():
            foreign = torch.ones(bucket.indices.numel(), dtype=torch.bool, device=grad.device)
            foreign[bucket.own] = False
            foreign = foreign.view(bucket.indices.shape)[:, None, :, None]  # (B, 1, L, 1)
            g = g.masked_fill(foreign, 0)
            # An infinite sum makes exp(score - sum) zero; otherwise it may overflow, and inf times 0 is NaN.
            sums = sums.masked_fill(foreign, math.inf)
        if bucket.indices.shape[1] <= MAX_FLOAT32_LENGTH:
            g, q, k, v, o = (tensor.float() for tensor in (g, q, k, v, o))
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, q, k, v, o, sums[..., 0], 0.0, True, scale=scale
        )
        if bucket.is_line:
            gradients = [_in_line(rows).to(grad.dtype).contiguous() for rows in grads]  # (T, H, E) each
            break
        gradients = gradients or [like.new_zeros(like.shape) for like in (query, key, value)]
        for line, rows in zip(gradients, grads, strict=True):
            _scatter_add_rows(line, rows, bucket)
    of_query, of_key, of_value = gradients
    return of_query, of_key, of_value


@_backward.register_fake
def _backward_shapes(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.scale = scale


def _packed_attention_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, lengths, out, logsumexp = ctx.saved_tensors
    return (*_backward(grad, query, key, value, out, logsumexp, lengths, ctx.scale), None, None)


packed_attention.register_autograd(_packed_attention_backward, setup_context=_save_for_backward)
