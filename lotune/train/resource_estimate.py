"""Estimates of the resources of a tuning: time from a measured step, memory and disk space from counts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lotune.data.collate import Batch
from lotune.memory import free_memory_bytes
from lotune.train.fsdp import local_bytes
from lotune.train.loop import TUNING_REMEDY, Objective, oom_guard, to_device
from lotune.train.loss import CausalLoss, max_logits_per_chunk
from lotune.train.train_state import STATES_KEPT

ACTIVATION_NUMBERS = 40
"""Activations kept for the backward pass per token and layer, in multiples of the hidden size (measured on Llama)."""


@dataclass(frozen=True)
class Estimate:
    """The duration of a training without its validations, its peak memory, and its disk space."""

    steps: int
    seconds: float
    memory_bytes: int
    disk_bytes: int

    free_bytes: int | None = None
    """Memory that the rest of the system leaves free; None if unknown."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What stands for each setting that is "auto", by dotted key: its `value`, and `why`."""

    def describe(self) -> str:
        """Return the estimate as a line of text."""
        free = self.free_bytes
        short = f", of which {free / 2**30:.1f} GiB are free" if free is not None and free < self.memory_bytes else ""
        return (
            f"estimate: {self.steps} steps in {self.seconds / 60:.1f} min without validations, "
            f"{self.memory_bytes / 2**30:.1f} GiB of memory{short}, {self.disk_bytes / 2**20:.0f} MiB on disk"
        )


def estimate(
    model: Any, step: list[Batch], steps: int, adapters: int, merged: int, objective: Objective | None = None
) -> Estimate:
    """Return an estimate from the micro-batches of a step, the largest of which is timed forward and backward."""
    largest = max(step, key=lambda batch: batch.input_ids.numel())
    loss_of, device = objective or CausalLoss(model), next(model.parameters()).device
    batch, elapsed, training = to_device(largest, device), [], model.training
    free = free_memory_bytes(device)
    model.train()  # gradient checkpointing acts in training mode only
    for _ in range(2):  # the first pass also warms up, so the faster one counts
        _synchronize(device)
        started = time.perf_counter()
        with oom_guard(batch, TUNING_REMEDY):
            loss_of(batch).backward()
        _synchronize(device)
        elapsed.append(time.perf_counter() - started)
    model.train(training)
    for parameter in model.parameters():
        parameter.grad = None
    tokens = sum(part.input_ids.numel() for part in step)
    seconds = min(elapsed) * tokens / largest.input_ids.numel() * steps
    weights = local_bytes(model.parameters())
    tokens_at_once, recomputed = batch.input_ids.numel(), uses_gradient_checkpointing(model)
    memory = memory_bytes(
        model,
        tokens_at_once,
        batch.num_scored_tokens,
        divided=bool(getattr(loss_of, "is_chunked", False)),
        recomputed=recomputed,
    )
    disk = checkpoint_bytes(model, adapters, merged)
    return Estimate(steps, seconds, memory, disk, None if free is None else free + weights)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_bytes(model: Any, tokens: int, scored: int, *, divided: bool, recomputed: bool) -> int:
    """Return the peak memory of a training, in bytes.

    It is the sum of the weights, of gradients and AdamW's two moments of the trained weights, and of the activations
    and logits of one micro-batch. `divided`: logits are computed in chunks, held once in float32 and perhaps once in
    the dtype of the weights. `recomputed`: only the input of each layer is kept, and all activations of one layer.
    """
    config = model.config.get_text_config()
    weights = local_bytes(model.parameters())
    trained = sum(p.numel() * 12 for p in model.parameters() if p.requires_grad)
    size = torch.finfo(next(model.parameters()).dtype).bits // 8
    layers = config.num_hidden_layers
    per_token = layers + ACTIVATION_NUMBERS if recomputed else layers * ACTIVATION_NUMBERS
    activations = tokens * per_token * config.hidden_size * size
    logits = scored * config.vocab_size
    held = 6 * min(logits, max_logits_per_chunk(model.get_output_embeddings().weight)) if divided else 3 * 4 * logits
    return int(weights + trained + activations + held)


def uses_gradient_checkpointing(model: Any) -> bool:
    """Return whether a model recomputes its activations in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def checkpoint_bytes(model: Any, adapters: int, merged: int) -> int:
    """Return the disk space of a tuning in bytes: adapters, merged models and saved states.

    A state has the trained weights and AdamW's two moments; a new one is written before the oldest is deleted.
    """
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return int(trained * (adapters + 3 * (STATES_KEPT + 1)) + whole * merged)
