"""What a tuning will take: time from one measured step, memory and disk from counts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from lotune.data.batches import Batch
from lotune.train.head import Head, most_logits
from lotune.train.loop import naming_the_setting, on_device
from lotune.train.resume import KEPT
from lotune.train.shard import held_bytes

ACTIVATION_NUMBERS = 40
"""Numbers kept for the backward pass a token and layer, over the model's width (measured on Llama shapes)."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of training without its validations, bytes of memory at the peak, bytes on disk."""

    steps: int
    seconds: float
    memory_bytes: int
    disk_bytes: int

    def describe(self) -> str:
        """The estimate for a person."""
        return (
            f"estimate: {self.steps} steps in {self.seconds / 60:.1f} min without validations, "
            f"{self.memory_bytes / 2**30:.1f} GiB of memory, {self.disk_bytes / 2**20:.0f} MiB on disk"
        )


def estimate(model: Any, step: list[Batch], steps: int, adapters: int, merged: int) -> Estimate:
    """An estimate from the micro-batches of one step: its longest one is run forward and backward, and thrown away."""
    largest = max(step, key=lambda batch: batch.input_ids.numel())
    head, device = Head(model), next(model.parameters()).device
    batch = on_device(largest, device)
    elapsed = []
    for _ in range(2):
        started = time.perf_counter()
        with naming_the_setting(batch):
            head.loss_sum(batch).backward()
        elapsed.append(time.perf_counter() - started)
    for parameter in model.parameters():
        parameter.grad = None
    tokens = sum(part.input_ids.numel() for part in step)
    seconds = min(elapsed) * tokens / largest.input_ids.numel() * steps
    return Estimate(steps, seconds, memory_bytes(model, batch, head.divides), disk_bytes(model, adapters, merged))


def memory_bytes(model: Any, batch: Batch, divided: bool) -> int:
    """Weights, gradients and AdamW's two means of what is trained, activations of one micro-batch, logits held.

    `divided`: of the logits only a part is held, once, in float32 and maybe in the dtype of the weights.
    """
    config = model.config.get_text_config()
    weights = held_bytes(model.parameters())
    trained = sum(p.numel() * 12 for p in model.parameters() if p.requires_grad)
    size = torch.finfo(next(model.parameters()).dtype).bits // 8
    tokens = batch.input_ids.numel()
    activations = tokens * config.num_hidden_layers * config.hidden_size * ACTIVATION_NUMBERS * size
    logits = batch.supervised * config.vocab_size
    held = 6 * min(logits, most_logits(model.get_output_embeddings().weight)) if divided else 3 * 4 * logits
    return int(weights + trained + activations + held)


def disk_bytes(model: Any, adapters: int, merged: int) -> int:
    """Adapters, merged models and saved states (weights and AdamW's two means; one is written beside the kept ones)."""
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return int(trained * (adapters + 3 * (KEPT + 1)) + whole * merged)
