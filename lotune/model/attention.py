"""Attention for rows that lie one after the other in one line, without padding and without seeing each other.

The linear layers of a model work on a line (1, T) of whole rows; here queries, keys and values are taken apart into
rows of similar length, each group padded to its longest row, and put together again. On a GPU torch's kernel for rows
of varied lengths takes the line as it is. It is registered with transformers, so that every architecture that looks its
attention up there can use it.

T: tokens of a line. H: heads, of which G have keys of their own. E: width of a head. B, L: rows of a group, tokens of
its longest.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lotune.errors import ModelError
from lotune.model.eval_mode import eval_mode, in_training
from lotune.model.parts import decoder_of

ATTENTION_NAME = "lotune_packed"
"""Under which transformers knows it."""
MAX_BUCKET_RATIO = 1.3
"""A row joins the group of a longer one that is at most so many times as long."""
SHORT = 512
"""Rows of at most so many tokens get their gradients in float32: small products in bfloat16 take longer."""


KeySpan = tuple[int, int, int]
"""Rows of a batch, from the first to before the last, and how many keys they see."""


class LengthBucket(NamedTuple):
    """Rows of similar length: places (B, L) of their tokens in the line; of B·L which are no padding, which are own.

    What rows share belongs to the first one. Whether the group is the line itself, cut into rows of one length.
    """

    places: Tensor
    real: Tensor
    own: Tensor
    is_line: bool


class VarlenArguments(NamedTuple):
    """Rows of a line for `varlen_attn`: the ends of their queries and keys, (1 + rows,) int32 from 0, and the longest.

    Where `shared` tokens stand before all rows, `order` (int64) has the places of each row's keys among those tokens,
    once a row, followed by the line's others. `widest`: the largest E that the device's kernels take.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    shared: int
    order: Tensor
    widest: int


def enable_packing(model: Any, longest: int) -> bool:
    """Let a model take packed rows, of `longest` tokens at most, where it then answers each as it does alone.

    Where it cannot (attention of its own kind or with dropout, a window shorter than the rows, positions that depend on
    the whole line), it is left as it was, and False is the answer.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    window = getattr(config, "sliding_window", None) or longest
    before = config._attn_implementation
    varying = any(kind in str(getattr(config, "rope_parameters", "")) for kind in ("dynamic", "longrope"))
    if before not in ("sdpa", ATTENTION_NAME) or window < longest or varying:
        return False
    with eval_mode(inner):
        apart = [_last_hidden(inner, row) for row in _PROBE]
    try:
        register_packed_attention(inner)
        with eval_mode(inner):
            alike = all(_packing_matches(inner, apart, shared) for shared in (0, _ALL_BEGIN))
        with in_training(inner):  # a dropped attention weight shows in no other mode, and has many names in a config
            _last_hidden(inner, *_PROBE)
    except (TypeError, ValueError, RuntimeError):
        alike = False
    if not alike:
        inner.set_attn_implementation(before)
    return alike


_PROBE = ((8, 3, 7, 2, 9, 4), (8, 3, 2), (8, 3, 4, 2, 3))
"""Rows of token ids that every vocabulary has."""
_ROUGH = 5e-2
"""How far hidden states in a reduced number format may be from those expected, relative to their norm."""
_ALL_BEGIN = 2
"""Tokens that these begin with alike."""


def _packing_matches(model: Any, apart: Sequence[Tensor], shared: int) -> bool:
    """Whether the rows of `_PROBE` come out of a packed line, with so many shared tokens, as when each is alone."""
    expected = torch.cat([apart[0], *(hidden[:, shared:] for hidden in apart[1:])], 1)
    tolerance = 1e-4 if expected.dtype == torch.float32 else _ROUGH
    return bool((_last_hidden(model, *_PROBE, shared=shared) - expected).norm() <= tolerance * expected.norm())


@torch.no_grad()
def _last_hidden(model: Any, *rows: tuple[int, ...], shared: int = 0) -> Tensor:
    """The last hidden states (1, T, D) of rows that are alone or packed."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*rows[0][:shared], *(token for row in rows for token in row[shared:])]], device=device)
    places = torch.cat([torch.arange(shared), *(torch.arange(shared, len(row)) for row in rows)])[None].to(device)
    lengths = torch.tensor([shared, *(len(row) - shared for row in rows)], device=device)
    more = {} if len(rows) == 1 else packed_attention_kwargs(lengths)
    found: Tensor = decoder_of(model)(ids, position_ids=places, use_cache=False, **more).last_hidden_state
    return found


def check_causal(model: Any) -> None:
    """Raise ModelError for a model whose tokens see those after them: no answer could be learnt or scored with it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    row = torch.tensor([_PROBE[0]], device=next(inner.parameters()).device)
    with torch.no_grad(), eval_mode(inner):
        whole, beginning = (decoder_of(inner)(ids, use_cache=False).last_hidden_state for ids in (row, row[:, :3]))
    if (whole[:, :3] - beginning).norm() > _ROUGH * beginning.norm():
        where = f"a {inner.config.model_type} model"
        raise ModelError(where, "a token sees those after it", "a causal model", "is_decoder: true in its config.json")


def register_packed_attention(model: Any) -> None:
    """Let a model take lines of packed rows (`packed_attention_kwargs`); without them it attends as with `sdpa`."""
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
    """What transformers calls: queries (B, H, T, E), keys and values maybe of fewer heads; (B, T, H, E)."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "dropout") if rest.get(name)]
    if widths is not None and attention_mask is not None and not unknown:
        return _decode_attention(query, key, value, attention_mask, widths, rest.get("scaling")), None
    if row_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return found
    if unknown:
        raise ValueError(f"packed attention has no {unknown[0]}")
    scale = rest.get("scaling") or query.shape[-1] ** -0.5
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # positions have turned queries and keys in float32, and values are not turned
        query, key, value = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (query, key, value))
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if segments is not None and _has_kernel(query, value, segments):
        return _varlen_attention(query, key, value, segments, scale)[None], None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    attend = _packed_attention_cpu if query.device.type == "cpu" else _bucketed_attention
    return attend(query, key, value, row_lengths, scale)[None], None


def _decode_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, widths: Sequence[KeySpan], scale: float | None
) -> Tensor:
    """One query a row, (B, H, 1, E), of which the rows `first` to `last` - 1 see `width` keys; (B, 1, H, E).

    Heads that share keys are taken as further queries of one head, so that no key is copied.
    """
    rows, heads, _, size = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    return bucketed_decode_attention(queries, key, value, mask, widths, scale).view(rows, 1, heads, size)


def bucketed_decode_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, widths: Sequence[KeySpan], scale: float | None
) -> Tensor:
    """What queries (B, H, Q, E) find, each block of rows in as many keys and values (B, H, L, E) as it sees."""
    found = torch.empty_like(queries)
    for first, last, width in widths:
        part = slice(first, last)
        found[part] = scaled_dot_product_attention(
            queries[part], keys[part, :, :width], values[part, :, :width], mask[part, ..., :width], scale=scale
        )
    return found


def packed_attention_kwargs(row_lengths: Tensor) -> dict[str, Any]:
    """What a model with packed attention is called with.

    `row_lengths` (1 + rows,) int64, on the model's device: the tokens at the start of the line that all rows share,
    then those of each row. A mask of four dimensions is taken by transformers as it is: this one keeps it from making
    its own.
    """
    device, on_cpu = row_lengths.device, row_lengths.cpu()
    words = {"row_lengths": on_cpu, "attention_mask": torch.zeros(1, 1, 1, 1)}
    widest = _widest_head(device)
    return words | ({"segments": varlen_arguments(on_cpu.tolist(), device, widest)} if widest else {})


def _widest_head(device: torch.device) -> int:
    """The largest E that torch's kernels for rows of varied lengths take on a device; 0 where it has none."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return 0
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0) or "enable_gqa" not in inspect.signature(varlen_attn).parameters:  # torch before 2.12
        return 0
    return 256 if capability in ((8, 0), (9, 0), (10, 0)) else 192  # backward, others have too little shared memory


def varlen_arguments(row_lengths: Sequence[int], device: torch.device, widest: int) -> VarlenArguments:
    """The rows of a line for `varlen_attn`; `row_lengths` as in `packed_attention_kwargs`.

    >>> found = varlen_arguments((2, 1, 3), torch.device("cpu"), 64)
    >>> found.cu_seqlens_q.tolist(), found.cu_seqlens_k.tolist()  # the first row has what is shared in its queries
    ([0, 3, 6], [0, 3, 8])
    >>> found.order.tolist()
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
    return VarlenArguments(query_ends, key_ends, max(queries), max(keys), shared, order.to(device), widest)


def _has_kernel(query: Tensor, value: Tensor, segments: VarlenArguments) -> bool:
    """Whether torch's kernels take heads of this format and width."""
    size = query.shape[-1]
    fits = size == value.shape[-1] and size % 8 == 0 and size <= segments.widest
    return fits and query.dtype in (torch.bfloat16, torch.float16)


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, segments: VarlenArguments, scale: float) -> Tensor:
    """Causal attention within each row of a line, queries (T, H, E), keys and values (T, G, E), where it is a kernel.

    The last query of a row sees its last key, so that with fewer queries than keys the first ones see what is shared.
    """
    from torch.nn.attention.varlen import varlen_attn

    if segments.shared:
        key, value = _with_shared(key, segments), _with_shared(value, segments)
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    ends = segments.cu_seqlens_q, segments.cu_seqlens_k, segments.max_seqlen_q, segments.max_seqlen_k
    found: Any = varlen_attn(query, key, value, *ends, scale=scale, window_size=(-1, 0), enable_gqa=True)
    return cast(Tensor, found)


def _with_shared(line: Tensor, segments: VarlenArguments) -> Tensor:
    """Keys or values (T, G, E) with what rows share before each one.

    Spread before it is put in order, its gradients are summed by one reduction, and so rounded once.
    """
    rows, shared = len(segments.cu_seqlens_q) - 1, segments.shared
    spread = line[:shared].expand(rows, *line[:shared].shape).flatten(0, 1)
    return torch.cat([spread, line[shared:]]).index_select(0, segments.order)


@lru_cache(maxsize=4)
def length_buckets(row_lengths: tuple[int, ...], device: str = "cpu") -> list[LengthBucket]:
    """The rows of a line in groups of similar length, the longest first; `row_lengths` as in `packed_attention_kwargs`.

    >>> [group.places.tolist() for group in length_buckets((0, 2, 5, 4))]
    [[[2, 3, 4, 5, 6], [7, 8, 9, 10, 7]], [[0, 1]]]
    >>> [group.places.tolist() for group in length_buckets((1, 2, 2))]
    [[[0, 1, 2], [0, 3, 4]]]
    """
    shared, *lengths = row_lengths
    starts = torch.tensor(row_lengths).cumsum(0).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [_group(rows, shared, lengths, starts, device) for rows in _similar(order, shared, lengths)]


def _similar(order: list[int], shared: int, lengths: list[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for row in order:
        if group and (shared + lengths[row]) * MAX_BUCKET_RATIO < shared + lengths[group[0]]:
            yield group
            group = []
        group.append(row)
    yield group


def _group(rows: list[int], shared: int, lengths: list[int], starts: list[int], device: str) -> LengthBucket:
    column = torch.arange(shared + lengths[rows[0]])
    first = torch.tensor([starts[row] for row in rows])[:, None]
    real = column < torch.tensor([shared + lengths[row] for row in rows])[:, None]
    own = real & ((column >= shared) | (torch.tensor(rows) == 0)[:, None])
    places = torch.where(real, torch.where(column < shared, column, first + column - shared), first)
    in_real, in_own = (part.flatten().nonzero()[:, 0].to(device) for part in (real, own))
    is_line = torch.equal(places.flatten(), torch.arange(shared + sum(lengths)))
    return LengthBucket(places.to(device), in_real, in_own, is_line)


def _gather_rows(tensor: Tensor, group: LengthBucket) -> Tensor:
    """The rows of a group out of a line: (T, H, E) to (B, H, L, E), a view where the group is the line."""
    rows = tensor.unflatten(0, tuple(group.places.shape)) if group.is_line else tensor[group.places]
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()  # the kernels do not look
    return rows.transpose(1, 2)


def _scatter_rows(line: Tensor, rows: Tensor, group: LengthBucket) -> None:
    """Write the rows (B, H, L, ...) of a group into a line (T, H, ...): what is their own."""
    line[group.places.flatten()[group.own]] = _in_line(rows)[group.own].to(line.dtype)


def _scatter_add_rows(line: Tensor, rows: Tensor, group: LengthBucket) -> None:
    """Add the rows (B, H, L, E) of a group to a line (T, H, E): what they share sums up."""
    line.index_add_(0, group.places.flatten()[group.real], _in_line(rows)[group.real].to(line.dtype))


def _in_line(rows: Tensor) -> Tensor:
    """Rows (B, H, L, ...) one after the other, padding included: (B·L, H, ...), a view where the kernels made them."""
    return rows.transpose(1, 2).flatten(0, 1)


def _bucketed_attention(query: Tensor, key: Tensor, value: Tensor, row_lengths: Tensor, scale: float) -> Tensor:
    """Causal attention within each row of a line, all (T, H, E), on any device."""
    out = torch.empty_like(value)
    for group in _buckets_of(row_lengths, query):
        q, k, v = (_gather_rows(tensor, group) for tensor in (query, key, value))
        _scatter_rows(out, scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale), group)
    return out


def _packed_attention_cpu(query: Tensor, key: Tensor, value: Tensor, row_lengths: Tensor, scale: float) -> Tensor:
    """The same on a CPU, as one operation that `torch.compile` does not look into."""
    out: Tensor = packed_attention(query, key, value, row_lengths, scale)[0]
    return out


def _buckets_of(row_lengths: Tensor, like: Tensor) -> list[LengthBucket]:
    return length_buckets(tuple(row_lengths.tolist()), str(like.device))


@torch.library.custom_op("lotune::packed_attention", mutates_args=())
def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, row_lengths: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Causal attention within each row of a line, all (T, H, E); and the logarithm of the softmax's sum, (T, H)."""
    out, logsumexp = value.new_empty(value.shape), query.new_empty(query.shape[:2], dtype=torch.float32)
    for group in _buckets_of(row_lengths, query):
        q, k, v = (_gather_rows(tensor, group) for tensor in (query, key, value))
        rows, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        if group.is_line:
            return _in_line(rows).contiguous(), _in_line(sums).contiguous()
        _scatter_rows(out, rows, group)
        _scatter_rows(logsumexp, sums, group)
    return out, logsumexp


@packed_attention.register_fake
def _packed_attention_fake(
    query: Tensor, key: Tensor, value: Tensor, row_lengths: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
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
    found: list[Tensor] = []
    for group in _buckets_of(lengths, query):
        g, q, k, v, o, sums = (
            _gather_rows(tensor, group) for tensor in (grad, query, key, value, out, logsumexp[..., None])
        )
        if len(group.own) < group.places.numel():
            others = torch.ones(group.places.numel(), dtype=torch.bool, device=grad.device)
            others[group.own] = False
            others = others.view(group.places.shape)[:, None, :, None]
            g = g.masked_fill(others, 0)
            sums = sums.masked_fill(others, math.inf)  # else exp(score - sum) may overflow, and inf times 0 is NaN
        if group.places.shape[1] <= SHORT:
            g, q, k, v, o = (tensor.float() for tensor in (g, q, k, v, o))
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, q, k, v, o, sums[..., 0], 0.0, True, scale=scale
        )
        if group.is_line:
            found = [_in_line(rows).to(grad.dtype).contiguous() for rows in grads]
            break
        found = found or [like.new_zeros(like.shape) for like in (query, key, value)]
        for line, rows in zip(found, grads, strict=True):
            _scatter_add_rows(line, rows, group)
    of_query, of_key, of_value = found
    return of_query, of_key, of_value


@_backward.register_fake
def _backward_shapes(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    lengths: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.scale = scale


def _packed_attention_backward(context: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, lengths, out, logsumexp = context.saved_tensors
    return (*_backward(grad, query, key, value, out, logsumexp, lengths, context.scale), None, None)


packed_attention.register_autograd(_packed_attention_backward, setup_context=_save_for_backward)
