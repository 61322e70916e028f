"""Dropout by the text: the same numbers are dropped however a step is divided, and they look drawn by chance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import PAD, assert_same, some_rows, step_of

from lotune.data.collate import Batch, Collator
from lotune.data.tokenized import EncodedRow
from lotune.model.adapters import add_adapter
from lotune.model.methods.lora import LoraSettings
from lotune.model.packing import enable_packing
from lotune.train.dropout import TextDropout, drop_by_text, dropped, text_keys
from lotune.train.loop import enable_gradient_checkpointing, train
from lotune.train.optimizers import adamw

LAYOUTS = [(99, 9999, True), (4, 9999, True), (99, 60, True), (1, 1, True), (99, 9999, False), (3, 50, False)]


@given(st.integers(1, 12), st.integers(0, 99), st.sampled_from([0, 12]), st.sampled_from(LAYOUTS), st.integers(1, 999))
@settings(max_examples=40)
def test_keys_follow_from_the_text_alone(
    count: int, seed: int, shared: int, layout: tuple[int, int, bool], step: int
) -> None:
    """Each row has the keys that it has alone, in whatever line it stands."""
    rows = sorted(some_rows(count, seed, shared), key=lambda row: len(row.token_ids))
    alone = [text_keys(Collator(1, 1, PAD, packed=False).batches([row])[0], 3, step)[0].tolist() for row in rows]
    batches = Collator(layout[0], layout[1], PAD, layout[2]).batches(rows)
    results = [keys for batch in batches for keys in _keys_of_rows(batch, step)]
    assert [keys[: len(row.token_ids) - 1] for keys, row in zip(results, rows, strict=True)] == alone


def _keys_of_rows(batch: Batch, step: int) -> list[list[int]]:
    keys, lengths = text_keys(batch, 3, step), batch.row_lengths
    assert keys.shape == batch.input_ids.shape
    assert keys.dtype == torch.int32
    if lengths is None:
        return [line[names == 0].tolist() for line, names in zip(keys, batch.sequence_ids, strict=True)]
    head, *own = keys[0].split(lengths.tolist())
    return [torch.cat([head, part]).tolist() for part in own]


def tuned(llama: Any, dropout: float = 0.5) -> Any:
    model = add_adapter(llama, LoraSettings(rank=4, dropout=dropout, target_modules="all-linear"), 0)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=draw)
    drop_by_text(model, 7)
    assert sum(isinstance(module, TextDropout) for module in model.modules()) == (14 if dropout else 0)
    return model


@pytest.mark.oracle
@pytest.mark.parametrize("shared", [0, 12])
def test_a_step_is_the_same_however_it_is_divided_and_recomputed(tiny_llama: Any, shared: int) -> None:
    model, rows = tuned(tiny_llama), some_rows(9, 5, shared)
    padded = [Collator(size, 9999, PAD, packed=False).batches(rows) for size in (99, 2)]
    (step, gradients), *further = [step_of(model, batches) for batches in padded]
    assert enable_packing(model, 36)
    further += [step_of(model, Collator(*sizes, PAD, packed=True).batches(rows)) for sizes in ((99, 9999), (3, 50))]
    enable_gradient_checkpointing(model, "tune.gradient_checkpointing")
    further.append(step_of(model, padded[0]))
    for other, result in further:
        assert other.loss == pytest.approx(step.loss, rel=1e-5)
        assert_same(result, gradients, 1e-4)


def test_each_step_drops_other_values_and_a_resumed_training_drops_the_same(tiny_llama: Any) -> None:
    model, rows = tuned(tiny_llama), some_rows(9, 5)
    batches = Collator(99, 9999, PAD, packed=False).batches(rows)
    optimizers = adamw([p for p in model.parameters() if p.requires_grad], 1e-30, (0.9, 0.9), 1e-8, 0.0)

    def losses(first: int, last: int) -> list[float]:
        steps = train(model, [batches] * (last + 1 - first), optimizers, [1.0] * last, first_step=first)
        return [step.loss for step in steps]

    complete = losses(1, 4)
    assert len(set(complete)) == 4
    torch.rand(5)  # other random numbers have no part in it
    assert losses(3, 4) == complete[2:]


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropped_values_look_random(p: float) -> None:
    """Its share, and how often neighbours, layers and steps drop together, are within five deviations of chance."""
    row = EncodedRow("1", tuple(torch.randint(300, (2001,), generator=torch.Generator().manual_seed(0)).tolist()), 1)
    [batch] = Collator(1, 1, PAD, packed=False).batches([row])
    keys, later = (text_keys(batch, 0, step)[0] for step in (1, 2))
    assert len(keys.unique()) == len(keys)
    result = dropped(keys, 256, 0, p)
    pairs = [
        (result[1:], result[:-1]), (result[:, 1:], result[:, :-1]), (result, dropped(keys, 256, 1, p)),
        (result, dropped(later, 256, 0, p)),
    ]  # fmt: skip
    assert abs(result.float().mean() - p) <= 5 * (p * (1 - p) / result.numel()) ** 0.5
    for one, other in pairs:
        together = ((one.double() - p) * (other.double() - p)).mean()
        assert abs(together) <= 5 * p * (1 - p) / one.numel() ** 0.5


def test_the_mean_stays_and_dropped_values_get_no_gradient(tiny_llama: Any) -> None:
    model = tuned(tiny_llama, 0.25)
    layer = next(module for module in model.modules() if isinstance(module, TextDropout)).train()
    layer.draw.keys = torch.randint(-(2**31), 2**31 - 1, (1, 500), dtype=torch.int32)
    inputs = torch.ones(1, 500, 32, requires_grad=True)
    result = layer(inputs)
    assert result.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert result.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(torch.autograd.grad(result.sum(), inputs)[0], result)
    assert torch.equal(layer(inputs.flatten(0, 1)), result[0])
    layer.eval()
    assert layer(inputs) is inputs


def test_without_dropout_no_layer_changes(tiny_llama: Any) -> None:
    tuned(tiny_llama, 0.0)
