"""Packed lines beside one padded batch of transformers: the same loss and gradients on every architecture."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lotune.data.batches import EncodedRow, Layout
from lotune.model.adapters import attach
from lotune.model.attention import NAME, take_packed
from lotune.model.settings import AdapterSettings
from lotune.train.loop import Optimizers, adamw, train

EOS, PAD = 0, 1
SMALL = {"vocab_size": 300, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
SHAPE = {
    **SMALL, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SHAPE | changes))


def one_key_head() -> Any:
    return llama(num_key_value_heads=1)


def qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SHAPE))


def gemma() -> Any:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=8))


def gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    layers = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=64, layer_types=layers))


def gpt2(dropout: float = 0.0) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    drops = {"attn_pdrop": dropout, "resid_pdrop": dropout, "embd_pdrop": dropout}
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=64, **drops))


def mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=12))


def dynamic() -> Any:
    return llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=4))


def made(shape: Callable[[], Any]) -> Any:
    """A model with an adapter, both with weights wide enough that rows differ; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = shape()
        model = attach(base, AdapterSettings(rank=2, target_modules="all-linear"), 0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def some_rows(count: int, shared: int = 0) -> list[EncodedRow]:
    """Rows of 3 to 24 tokens after `shared` that all begin with."""
    draw = random.Random(7)
    rows, head = [], tuple(draw.randint(2, 299) for _ in range(shared))
    for number in range(count):
        length = draw.randint(3, 24)
        tokens = (*(draw.randint(2, 299) for _ in range(length - 1)), EOS)
        rows.append(EncodedRow(str(number), (*head, *tokens), shared + draw.randint(1, length - 1)))
    return rows


def reference(model: Any, rows: list[EncodedRow]) -> tuple[float, list[torch.Tensor]]:
    """Transformers' own loss of one padded batch, and the gradients of what is trained."""
    width = max(len(row.tokens) for row in rows)
    ids = torch.tensor([[*row.tokens, *[PAD] * (width - len(row.tokens))] for row in rows])
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows])
    starts = torch.tensor([row.answer_start for row in rows])[:, None]
    labels = ids.masked_fill((mask == 0) | (torch.arange(width) < starts), -100)
    loss = model.train()(input_ids=ids, attention_mask=mask, labels=labels).loss
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return loss.item(), list(found)


class Catcher(torch.optim.SGD):
    """An optimiser that moves nothing and keeps the gradients it was given."""

    def step(self, closure: Any = None) -> None:
        self.caught = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def step_of(model: Any, rows: list[EncodedRow], layout: Layout) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of one step of the training loop."""
    catcher = Catcher([p for p in model.parameters() if p.requires_grad], 0.0)
    [step] = train(model, iter([layout.batches(rows)]), Optimizers((catcher,), (0.0,)), [0.0], clip_norm=0.0)
    return step.loss, catcher.caught


@pytest.mark.oracle
@pytest.mark.parametrize("shared", [0, 12])
@pytest.mark.parametrize("shape", [llama, one_key_head, qwen2, gemma, gemma3, gpt2])
def test_packed_lines_give_the_step_of_one_padded_batch(shape: Callable[[], Any], shared: int) -> None:
    rows, model = some_rows(20, shared), made(shape)
    loss, gradients = reference(model, rows)
    assert take_packed(model, 36)
    assert model.config._attn_implementation == NAME
    for layout in (Layout(99, 9999, PAD, packed=True), Layout(7, 40, PAD, packed=True)):
        found_loss, found = step_of(model, rows, layout)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        for ours, theirs in zip(found, gradients, strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-8


@pytest.mark.parametrize("shape", [mistral, dynamic, bloom, lambda: gpt2(0.1)])
def test_what_cannot_take_packed_rows_is_left_as_it_was(shape: Callable[[], Any]) -> None:
    """A window shorter than the rows, positions that hang on the whole line, attention of its own, dropped weights."""
    model = made(shape)
    before = model.config._attn_implementation
    assert not take_packed(model, 24)
    assert model.config._attn_implementation == before


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    rows, layout = some_rows(9), Layout(99, 9999, PAD, packed=True)
    model = made(llama)
    assert take_packed(model, 24)
    loss, gradients = step_of(model, rows, layout)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, found = step_of(model, rows, layout)
    assert again == pytest.approx(loss, rel=1e-6)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_memory_that_runs_out_names_the_setting() -> None:
    from lotune.errors import SettingsError

    model = made(llama)

    def full(*words: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.get_base_model().model.forward = full
    optimizers = adamw([p for p in model.parameters() if p.requires_grad], 1e-3, (0.9, 0.99), 1e-8, 0.0)
    batches = Layout(99, 9999, PAD, packed=False).batches(some_rows(4))
    with pytest.raises(SettingsError, match="batch_tokens"):
        list(train(model, iter([batches]), optimizers, [1.0]))
