"""Another objective through the training loop: cross-entropy, and on replay rows the divergence from the base."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from steps import EOS, PAD, assert_same, some_rows
from tiny_models import causal_lm
from torch import Tensor
from torch.nn.functional import kl_div

from lotune.data.collate import IGNORE_INDEX, Batch, Collator, pack_rows, pad_rows
from lotune.model.adapters import add_adapter
from lotune.model.attention import packed_attention_kwargs
from lotune.model.methods.lora import LoraSettings
from lotune.model.packing import enable_packing
from lotune.train.loop import train
from lotune.train.loss import CausalLoss
from lotune.train.optimizers import adamw

WEIGHT = 3.0
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.3, "eos_token_id": EOS, "pad_token_id": PAD,
}  # fmt: skip


def adapted() -> Any:
    """A model with an adapter that has already moved away from its base."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        base = causal_lm("LlamaConfig", **SHAPE)
        model: Any = add_adapter(base, LoraSettings(rank=2), 0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model


def logits_of(model: Any, batch: Batch) -> Tensor:
    lengths = batch.row_lengths
    kwargs = {} if lengths is None else {"position_ids": batch.positions, **packed_attention_kwargs(lengths)}
    logits: Tensor = model(input_ids=batch.input_ids, use_cache=False, **kwargs).logits
    return logits


def divergence_sum(model: Any, batch: Batch) -> Tensor:
    """The divergence of base and adapted model, summed over the scored positions of replay rows."""
    counted = batch.replay_mask & (batch.targets != IGNORE_INDEX)
    with torch.no_grad(), model.disable_adapter():
        base = logits_of(model, batch)[counted].log_softmax(-1)
    return kl_div(logits_of(model, batch)[counted].log_softmax(-1), base, reduction="sum", log_target=True)


def with_divergence(model: Any) -> Callable[[Batch], Tensor]:
    loss = CausalLoss(model)
    return lambda batch: loss(batch) + WEIGHT * divergence_sum(model, batch)


def steps(model: Any, batches: list[Batch], count: int, **objective: Any) -> list[float]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = adamw(parameters, 1e-2, (0.9, 0.99), 1e-8, 0.0)
    return [step.loss for step in train(model, [batches] * count, optimizers, [1.0] * count, **objective)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_divergence_on_replay_rows_is_added_to_the_loss_of_the_step(packed: bool) -> None:
    model = adapted()
    rows = [replace(row, is_replay=number % 3 == 0) for number, row in enumerate(some_rows(10))]
    assert not packed or enable_packing(model, 30)
    scored = pad_rows(rows, PAD).num_scored_tokens
    with torch.no_grad():
        divergence = divergence_sum(model, pad_rows(rows, PAD)).item() / scored
    assert divergence > 0.01
    batches = Collator(4, 99, PAD, packed).batches(rows)
    assert len(batches) > 1
    plain, both = copy.deepcopy(model), copy.deepcopy(model)
    [alone] = steps(plain, batches, 1)
    [together] = steps(both, batches, 1, objective=with_divergence(both))
    assert together == pytest.approx(alone + WEIGHT * divergence, rel=1e-4)


def test_the_divergence_holds_a_model_on_replay_rows_alone() -> None:
    """Trained with it, the model stays nearer its base on the replay rows and learns the others all the same."""
    model = adapted()
    rows = [replace(row, is_replay=number % 2 == 0) for number, row in enumerate(some_rows(8))]
    batch = pack_rows(rows) if enable_packing(model, 30) else pad_rows(rows, PAD)
    free, held = copy.deepcopy(model), copy.deepcopy(model)
    steps(free, [batch], 12)
    steps(held, [batch], 12, objective=with_divergence(held))
    with torch.no_grad():
        assert divergence_sum(held, batch) < 0.75 * divergence_sum(free, batch)


def test_cross_entropy_is_the_default_objective() -> None:
    batch = pad_rows(some_rows(6), PAD)
    one, other = adapted(), adapted()
    assert steps(one, [batch], 3) == steps(other, [batch], 3, objective=CausalLoss(other))
    assert_same([p.detach() for p in one.parameters()], [p.detach() for p in other.parameters()])
