"""Cross-entropy of a causal model, whose output head is applied to scored positions only, in chunks.

B, T: lines of a batch and tokens of a line. N: scored positions. C: those of a chunk. D: hidden size. V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lotune.data.collate import IGNORE_INDEX, Batch
from lotune.train.output_head import Head, OutputHead

MAX_LOGITS_PER_CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Number of logits in a chunk: 16 MiB in float32, which fit into a CPU's caches, or 256 MiB on a GPU."""


def max_logits_per_chunk(weight: Tensor) -> int:
    """Return the maximum number of logits to hold at once for a head with this weight (V, D).

    If the head itself is trained, each chunk reads and writes the whole gradient of its weight, so a chunk is larger:
    twice as many logits, or half as many as the weight has elements.
    """
    limit = MAX_LOGITS_PER_CHUNK.get(weight.device.type, MAX_LOGITS_PER_CHUNK["cuda"])
    return max(2 * limit, weight.numel() // 2) if weight.requires_grad else limit


class CausalLoss:
    """Cross-entropy of a causal model, summed over the scored positions of a batch; `OutputHead` says how.

    `compile`: whether to compile the decoder.
    """

    def __init__(self, model: Any, compile: bool = False) -> None:
        self._head = OutputHead(model, compile)

    @property
    def is_chunked(self) -> bool:
        """Whether the logits of a batch are computed in chunks; known after the first batch."""
        return self._head.is_chunked

    def __call__(self, batch: Batch) -> Tensor:
        """Return the cross-entropy summed over the scored positions of a batch, a float32 scalar."""
        scored = batch.targets != IGNORE_INDEX  # (B, T)
        states = self._head.states(batch, scored)  # (N, D)
        return self._head.call(self._sum, states, batch.targets[scored])

    def _sum(self, module: Head, states: Tensor, targets: Tensor) -> Tensor:
        return entropy_sum(self._head, module, states, targets)


def entropy_sum(head: OutputHead, module: Head, states: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy of states (N, D) and targets (N,); `module` is what `OutputHead.call` gives."""
    if head.path == "whole":
        return cross_entropy(at_least_float32(states), targets, reduction="sum")
    weight = head.module.weight  # (V, D)
    rows = max(1, max_logits_per_chunk(weight) // len(weight))
    if head.is_matrix:
        entropy: Callable[..., Tensor] = _ChunkedLinearCrossEntropy.apply
        states, weight = in_autocast_dtype(states, weight)
        return entropy(states, weight, targets, rows, torch.is_grad_enabled())
    if not len(states):
        return states.float().sum()
    # With another head or with code around it, autograd computes the gradient, and recomputes the logits for it.
    logits = head.logits_with(module)
    chunks = zip(states.split(rows), targets.split(rows), strict=True)  # (C, D), (C,)
    return torch.stack([checkpoint(_entropy, logits, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in the dtype of products under autocast; outside of it, as they are."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def _entropy(logits: Head, states: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(at_least_float32(logits(states)), targets, reduction="sum")


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits in float32, or in float64 if they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of the logits hidden (N, D) · weightᵀ (D, V), which are never held all at once.

    The forward pass computes the gradients, too, so that no chunk of logits is computed twice. All chunks share the
    same buffers.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, learning: bool) -> Tensor:
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        total = hidden.new_zeros((), dtype=exact)
        needs_hidden, needs_weight = (learning and needed for needed in ctx.needs_input_grad[:2])
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=exact) if needs_weight else None
        product_buffer = weight.new_empty(min(rows, len(hidden)), len(weight))  # (C, V), dtype of the weight
        is_exact = product_buffer.dtype == exact
        logits_buffer = product_buffer if is_exact else torch.empty_like(product_buffer, dtype=exact)
        for first in range(0, len(hidden), rows):
            chunk, labels = hidden[first : first + rows], targets[first : first + rows, None]  # (C, D), (C, 1)
            product, logits = product_buffer[: len(chunk)], logits_buffer[: len(chunk)]  # (C, V)
            torch.mm(chunk, weight.T, out=product)
            if not is_exact:
                logits.copy_(product)
            logits.sub_(logits.amax(1, keepdim=True))
            label_logits = logits.gather(1, labels)  # (C, 1)
            sums = logits.exp_().sum(1, keepdim=True)  # (C, 1)
            total += (sums.log() - label_logits).sum()
            if not (needs_hidden or needs_weight):
                continue
            logits.div_(sums).scatter_add_(1, labels, torch.full_like(sums, -1.0))  # now their gradient, (C, V)
            if weight_grad is not None:
                weight_grad.addmm_(logits.T, chunk.to(exact))  # (V, D)
            if hidden_grad is not None:
                rounded = logits if is_exact else product.copy_(logits)
                hidden_grad[first : first + rows] = rounded @ weight  # (C, D)
        ctx.save_for_backward(hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if grad is None else grad.mul_(grads[0]) for grad in ctx.saved_tensors)
        return (*scaled, None, None, None)
