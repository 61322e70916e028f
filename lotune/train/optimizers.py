"""The optimisers of a training: AdamW on everything, or Muon on the matrices and AdamW on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lotune.distributed import is_sharded
from lotune.train.muon import Muon
from lotune.train.settings import TrainingSettings

EMBEDDING_LR_RATIO, MAX_EMBEDDING_LR = 1.5, 3e-3
"""Learning rate of what AdamW trains beside Muon, as a multiple of Muon's, and the highest that it takes."""


@dataclass(frozen=True)
class Optimizers:
    """One or more optimisers that step together; each has a peak learning rate in `peak_lrs`."""

    members: tuple[torch.optim.Optimizer, ...]
    peak_lrs: tuple[float, ...]

    def set_lr_factor(self, factor: float) -> None:
        """Set every learning rate to `factor` times its peak."""
        for optimizer, peak_lr in zip(self.members, self.peak_lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * factor

    def step(self) -> None:
        """Apply the gradients and drop them."""
        for optimizer in self.members:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def make_optimizers(model: Any, settings: TrainingSettings) -> Optimizers:
    """Return the optimisers that the settings ask for, of all trainable parameters of a model."""
    betas, epsilon = (settings.adam_beta1, settings.adam_beta2), settings.adam_epsilon
    if settings.optimizer == "muon":
        return muon(model, settings.learning_rate, settings.weight_decay, betas, epsilon)
    return adamw(_trainable(model), settings.learning_rate, betas, epsilon, settings.weight_decay)


def adamw(
    parameters: Sequence[torch.nn.Parameter],
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> Optimizers:
    """Return AdamW of all parameters, with weight decay on matrices only; fused unless one is sharded."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        learning_rate,
        betas,
        epsilon,
        fused=not any(map(is_sharded, parameters)),
    )
    return Optimizers((optimizer,), (learning_rate,))


def muon(
    model: Any,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    epsilon: float = 1e-8,
) -> Optimizers:
    """Return Muon of the linear layers' matrices, and AdamW of the rest at a learning rate of its own.

    The rest are embeddings, norms, biases and the output head. Either part may be empty.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    inner = {id(layer.weight) for layer in layers} - embeddings
    matrices = [p for p in _trainable(model) if id(p) in inner]
    rest = [p for p in _trainable(model) if id(p) not in inner]
    rest_lr = min(EMBEDDING_LR_RATIO * learning_rate, MAX_EMBEDDING_LR)
    parts = [Optimizers((Muon(matrices, learning_rate, weight_decay),), (learning_rate,))] if matrices else []
    parts += [adamw(rest, rest_lr, betas, epsilon, 0.0)] if rest else []
    return Optimizers(
        tuple(optimizer for part in parts for optimizer in part.members),
        tuple(peak_lr for part in parts for peak_lr in part.peak_lrs),
    )


def _trainable(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
