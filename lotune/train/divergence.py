"""Divergence from the base: KL(base‖tuned) of the next token, as an objective on replay rows.

The base is the tuned model without its adapter, so that there is one set of weights. Its logits are those of a second
forward pass, of the replay rows alone. As the base does not change, the hidden states of a row that is drawn again and
again are computed once. Logits are exact over the whole vocabulary, for a chunk of positions at a time.

B, T: lines of a batch and tokens of a line. N: positions. C: those of a chunk. D: hidden size. V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lotune.data.collate import IGNORE_INDEX, Batch, replay_part, single_rows
from lotune.distributed import is_sharded
from lotune.model.adapters import base_alone
from lotune.model.eval_mode import eval_mode
from lotune.model.parts import virtual_ids
from lotune.train.loss import at_least_float32, entropy_sum, in_autocast_dtype, max_logits_per_chunk
from lotune.train.output_head import Head, OutputHead

MAX_STATE_BYTES = 2**28
"""Maximum size of the base's states of all replay rows that are kept between steps."""


class DivergenceLoss:
    """Cross-entropy of the task's rows, and `weight` times KL(base‖tuned) of replay rows, summed over scored positions.

    A position that only the tuned model has, that of a virtual token, counts in neither. `compile`: whether to compile
    the decoder of the tuned model. `recurring`: the number of scored positions of all replay rows if the same rows are
    drawn often enough to keep the base's states of them, else 0.
    """

    def __init__(self, model: Any, weight: float, compile: bool = False, recurring: int = 0) -> None:
        self._model, self._weight, self._head = model, weight, OutputHead(model, compile)
        self._prefix_ids = virtual_ids(model)
        self._in_shards = any(is_sharded(parameter) for parameter in model.parameters())
        self._recurring, self._kept = recurring, dict[bytes, Tensor]()

    @property
    def is_chunked(self) -> bool:
        """Whether the logits of a batch are computed in chunks; known after the first batch."""
        return self._head.is_chunked

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss summed over the scored positions of a batch, a float32 scalar."""
        scored = batch.targets != IGNORE_INDEX  # (B, T)
        replay = batch.replay_mask & scored
        base = self._base_states(batch)  # (N, D) of the replay rows; before the other pass, which keeps its activations
        is_replay = replay[scored]  # (N,)
        targets, states = batch.targets[scored], self._head.states(batch, scored)  # (N,), (N, D)
        if self._prefix_ids:
            virtual = torch.isin(batch.input_ids, batch.input_ids.new_tensor(self._prefix_ids))[scored]  # (N,)
            compared = states[is_replay & ~virtual]
        else:
            compared = states[is_replay]
        if base is None:
            base = compared.detach()
        return self._head.call(self._sum, states[~is_replay], targets[~is_replay], compared, base)

    @torch.no_grad()
    def _base_states(self, batch: Batch) -> Tensor | None:
        """Return the base's states (N, D) of the scored positions of replay rows; None if no row is one."""
        part = replay_part(batch, self._prefix_ids)
        if part is None and not self._in_shards:
            return None
        with base_alone(self._model), eval_mode(self._model):
            if part is None:  # all processes gather sharded weights at once, whatever rows they have
                self._head.states(_one_token(batch), torch.zeros_like(batch.targets[:1, :1], dtype=torch.bool))
                return None
            if self._keeps_states():
                return torch.cat([self._kept_states(row) for row in single_rows(part)])
            return self._scored_states(part)

    def _keeps_states(self) -> bool:
        # Sharded weights are gathered by all processes at once, but not all of them lack the states of the same row.
        return not self._in_shards and 0 < self._recurring * self._head.state_bytes <= MAX_STATE_BYTES

    def _kept_states(self, row: Batch) -> Tensor:
        # Computed alone: among other rows the states differ in their last bits, and a resumed training, which has
        # none of them yet, would differ from one without a stop.
        key = torch.cat([row.input_ids, row.targets]).cpu().numpy().tobytes()  # (2, T)
        if key not in self._kept:
            self._kept[key] = self._scored_states(row)
        return self._kept[key]

    def _scored_states(self, batch: Batch) -> Tensor:
        return self._head.states(batch, batch.targets != IGNORE_INDEX, compiled=False)

    def _sum(self, module: Head, states: Tensor, targets: Tensor, compared: Tensor, base: Tensor) -> Tensor:
        entropy = entropy_sum(self._head, module, states, targets)
        if not len(compared):
            return entropy
        return entropy + self._weight * self._divergence_sum(module, compared, base)

    def _divergence_sum(self, module: Head, states: Tensor, base: Tensor) -> Tensor:
        """Return KL(base‖tuned) of states (N, D) of both models, summed over positions."""
        head, weight = self._head, self._head.module.weight  # (V, D)
        # three buffers of logits, where the cross-entropy has one
        rows = max(1, max_logits_per_chunk(weight) // len(weight) // 2)
        if head.is_matrix and not weight.requires_grad:
            divergence: Callable[..., Tensor] = _ChunkedLinearDivergence.apply
            states, weight, base = in_autocast_dtype(states, weight, base)
            return divergence(states, weight.detach(), base, rows, torch.is_grad_enabled())
        logits = head.logits_with(module)

        def base_logits(hidden: Tensor) -> Tensor:
            with torch.no_grad(), base_alone(self._model), eval_mode(self._model):
                return logits(hidden)

        chunks = zip(states.split(rows), base.split(rows), strict=True)  # (C, D) each
        parts = [checkpoint(_divergence, logits, base_logits, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(parts).sum()


def _one_token(batch: Batch) -> Batch:
    """Return a batch of one unscored token."""
    zero = torch.zeros_like(batch.input_ids[:1, :1])
    return Batch(zero, torch.full_like(zero, IGNORE_INDEX), zero, zero)


def _divergence(logits: Head, base_logits: Head, states: Tensor, base: Tensor) -> Tensor:
    return divergences(base_logits(base), logits(states)).sum()


def divergences(base: Tensor, tuned: Tensor) -> Tensor:
    """Return KL(base‖tuned) in nats, (C,), of logits (C, V) of both; tokens that both mask with -inf count nothing.

    >>> logits = torch.tensor([[0.0, 1.0, 2.0]])
    >>> divergences(logits, logits + 5).abs().max() < 1e-6, divergences(logits, -logits).round(decimals=4)
    (tensor(True), tensor([1.1504]))
    """
    expected = at_least_float32(base).log_softmax(-1)  # (C, V)
    difference = (expected - at_least_float32(tuned).log_softmax(-1)).masked_fill(expected == -torch.inf, 0.0)
    return (expected.exp() * difference).sum(-1)


class _ChunkedLinearDivergence(torch.autograd.Function):
    """KL(base‖tuned) of hidden (N, D) and the base's (N, D), each times weight (V, D), summed over positions.

    The forward pass computes the gradient, too, while a chunk's logits are in the cache. The weight is frozen.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, base: Tensor, rows: int, learning: bool) -> Tensor:
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        total = hidden.new_zeros((), dtype=exact)
        hidden_grad = torch.empty_like(hidden) if learning and ctx.needs_input_grad[0] else None
        for first in range(0, len(hidden), rows):
            part = slice(first, first + rows)
            expected, logits = (torch.mm(states[part], weight.T).to(exact) for states in (base, hidden))  # (C, V)
            expected, logits = expected.log_softmax(-1), logits.log_softmax(-1)
            difference = expected - logits
            expected.exp_()  # now probabilities of the base
            total += torch.dot(expected.flatten(), difference.flatten())
            if hidden_grad is not None:
                gradient = logits.exp_().sub_(expected)  # of the logits, (C, V)
                hidden_grad[part] = gradient.to(weight.dtype) @ weight  # (C, D)
        ctx.save_for_backward(hidden_grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [gradient] = ctx.saved_tensors
        return None if gradient is None else gradient * grads[0], None, None, None, None
