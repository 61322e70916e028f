"""Rows, and one step of the training loop beside that of transformers itself, as several tests need them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from lotune.data.collate import Batch
from lotune.data.tokenized import EncodedRow
from lotune.train.loop import train
from lotune.train.optimizers import Optimizers

EOS, PAD = 0, 1


def some_rows(count: int, seed: int = 0, shared: int = 0) -> list[EncodedRow]:
    """Rows of 3 to 24 tokens, about half of each an answer, after `shared` tokens that all begin with."""
    draw = random.Random(seed)
    rows, head = [], tuple(draw.randint(2, 299) for _ in range(shared))
    for number in range(count):
        length = draw.randint(3, 24)
        tokens = (*(draw.randint(2, 299) for _ in range(length - 1)), EOS)
        rows.append(EncodedRow(str(number), (*head, *tokens), shared + draw.randint(1, length - 1)))
    return rows


def plain_loss(model: Any, rows: Sequence[EncodedRow]) -> torch.Tensor:
    """The mean loss of transformers itself, of one padded batch, from labels that hide prompt and padding."""
    width = max(len(row.token_ids) for row in rows)
    ids = torch.tensor([[*row.token_ids, *[PAD] * (width - len(row.token_ids))] for row in rows])
    mask = torch.tensor([[1] * len(row.token_ids) + [0] * (width - len(row.token_ids)) for row in rows])
    starts = torch.tensor([row.completion_start for row in rows])[:, None]
    labels = ids.masked_fill((mask == 0) | (torch.arange(width) < starts), -100)
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def plain_step(model: Any, rows: Sequence[EncodedRow]) -> tuple[float, list[torch.Tensor]]:
    """That loss, and the gradients of what is trained."""
    loss = plain_loss(model, rows)
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return loss.item(), list(gradients)


class Catcher(torch.optim.Optimizer):
    """An optimiser that moves nothing and keeps the gradients it was given."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.caught: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> None:
        self.caught = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def step_of(
    model: Any, micro_batches: list[Batch], max_grad_norm: float = 0.0, autocast_bfloat16: bool = False
) -> tuple[Any, list[torch.Tensor]]:
    """The record of one step of the training loop, and its gradients."""
    catcher = Catcher([p for p in model.parameters() if p.requires_grad])
    [step] = train(
        model,
        [micro_batches],
        Optimizers((catcher,), (1.0,)),
        [1.0],
        max_grad_norm=max_grad_norm,
        autocast_bfloat16=autocast_bfloat16,
    )
    return step, catcher.caught


def assert_same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], relative: float = 1e-5) -> None:
    """Each tensor is its counterpart but for `relative` of that one's norm."""
    assert len(found) == len(expected)
    for result, other in zip(found, expected, strict=True):
        assert (result - other).norm() <= relative * other.norm() + 1e-9
