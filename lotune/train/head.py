"""The loss of a causal model, its output head applied at scored positions only, a part of them at a time.

N: scored positions. D: width of the model. V: vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lotune.data.batches import UNSCORED, Batch
from lotune.model.attention import packed_arguments
from lotune.train.parallel import is_sharded

MOST_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Logits that are held at once: 16 MiB in float32, which a processor's caches hold; 256 MiB where kernels are large.

Twice as many where the head's own weights learn, as their gradient is gone through once a part.
"""


def most_logits(weight: Tensor) -> int:
    """Logits that are held at once by a head with such weights (V, D)."""
    return MOST_LOGITS.get(weight.device.type, MOST_LOGITS["cuda"]) * (2 if weight.requires_grad else 1)


class Head:
    """Loss of a causal model with its output head applied at scored positions only.

    For a model whose logits are not simply head(hidden state) (scaled or capped ones), the whole model is called: a
    comparison on the first batch finds out.
    """

    def __init__(self, model: Any, compile: bool = False) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._model, self._decoder, self._output = model, inner.get_decoder(), inner.get_output_embeddings()
        self._forward = torch.compile(self._decoder) if compile else self._decoder
        self._plain: bool | None = None

    @property
    def divides(self) -> bool:
        """Whether the logits of a batch are made in parts, as is known after the first one."""
        return bool(self._plain) and not is_sharded(self._output.weight)

    def loss_sum(self, batch: Batch) -> Tensor:
        """Sum of the cross-entropy over the scored positions of a batch, float32 scalar."""
        scored = batch.targets != UNSCORED
        if self._plain is None:
            self._plain = self._is_plain(batch)
        words = {"input_ids": batch.input_ids, "use_cache": False, **_apart(batch)}
        if self._plain:
            return self._entropy_sum(self._forward(**words).last_hidden_state[scored], batch.targets[scored])
        logits = self._model(**words).logits[scored]
        return cross_entropy(logits.float(), batch.targets[scored], reduction="sum")

    def _entropy_sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross-entropy of hidden states (N, D)."""
        weight = self._output.weight
        rows = max(1, most_logits(weight) // len(weight))
        if type(self._output) is nn.Linear and self._output.bias is None:
            found: Tensor = _LinearEntropy.apply(hidden, weight, targets, rows, torch.is_grad_enabled())
            return found
        if is_sharded(weight):  # it is gathered by all at once, so all call it as often
            return self._entropy(hidden, targets)
        # a head that is quantised, biased or has an adapter: its logits are made again backward
        parts = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.stack([checkpoint(self._entropy, *part, use_reentrant=False) for part in parts]).sum()

    def _entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self._output(hidden).float(), targets, reduction="sum")

    @torch.no_grad()
    def _is_plain(self, batch: Batch) -> bool:
        ids = batch.input_ids[:1, :32]
        training = self._model.training
        self._model.eval()
        direct = self._output(self._decoder(input_ids=ids, use_cache=False).last_hidden_state)
        whole = self._model(input_ids=ids, use_cache=False).logits
        self._model.train(training)
        return bool(torch.allclose(direct.float(), whole.float(), rtol=1e-4, atol=1e-4))


def _apart(batch: Batch) -> dict[str, Tensor]:
    """What keeps the rows of a packed line apart; nothing where each row has a line of its own."""
    lengths = batch.row_lengths
    return {} if lengths is None else {"position_ids": batch.positions, **packed_arguments(lengths)}


class _LinearEntropy(torch.autograd.Function):
    """Summed cross-entropy of hidden (N, D) times weight (V, D), without the logits (N, V) ever being there at once.

    The gradients are made beside the loss, from logits that are still in the cache, so nothing is computed twice; all
    parts use the same memory.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, learning: bool) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden, to_weight = (learning and needed for needed in ctx.needs_input_grad[:2])
        of_hidden = torch.empty_like(hidden) if to_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        made = weight.new_empty(min(rows, len(hidden)), len(weight))  # in the dtype of the weights
        taken = made if made.dtype == torch.float32 else torch.empty_like(made, dtype=torch.float32)
        for first in range(0, len(hidden), rows):
            part, aims = hidden[first : first + rows], targets[first : first + rows, None]
            product, logits = made[: len(part)], taken[: len(part)]
            torch.mm(part, weight.T, out=product)
            if taken is not made:
                logits.copy_(product)
            logits.sub_(logits.amax(1, keepdim=True))
            aimed = logits.gather(1, aims)
            sums = logits.exp_().sum(1, keepdim=True)
            total += (sums.log() - aimed).sum()
            if not (to_hidden or to_weight):
                continue
            logits.div_(sums).scatter_add_(1, aims, torch.full_like(sums, -1.0))  # the gradient of the logits
            if of_weight is not None:
                of_weight.addmm_(logits.T, part.float())
            if of_hidden is not None:
                rounded = logits if taken is made else product.copy_(logits)
                of_hidden[first : first + rows] = rounded @ weight
        ctx.save_for_backward(of_hidden, None if of_weight is None else of_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if found is None else found.mul_(grads[0]) for found in ctx.saved_tensors)
        return (*scaled, None, None, None)
