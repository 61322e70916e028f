"""Packed lines beside one padded batch of transformers: the same loss and gradients on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from steps import EOS, PAD, assert_same, plain_step, some_rows, step_of
from tiny_models import causal_lm

from lotune.data.collate import Collator
from lotune.errors import ModelError, SettingsError
from lotune.model.adapters import add_adapter
from lotune.model.attention import ATTENTION_NAME
from lotune.model.methods.lora import LoraSettings
from lotune.model.new_models import new_model_from_config
from lotune.model.packing import check_causal, enable_packing
from lotune.train.loop import enable_gradient_checkpointing, evaluate_loss, train
from lotune.train.optimizers import adamw
from lotune.train.resource_estimate import estimate
from tests.generate.test_engine import EAGER, SMALL, WIDE, bloom, dynamic_llama, llama, qwen2


def one_key_head() -> Any:
    return llama(num_key_value_heads=1)


def gemma() -> Any:
    return causal_lm("GemmaConfig", **WIDE, head_dim=8)


def gemma3() -> Any:
    layers = ["sliding_attention", "full_attention"]
    return causal_lm("Gemma3TextConfig", **WIDE, head_dim=8, sliding_window=64, layer_types=layers)


def gpt2(dropout: float = 0.0) -> Any:
    drops = {"attn_pdrop": dropout, "resid_pdrop": dropout, "embd_pdrop": dropout}
    return causal_lm("GPT2Config", **SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=64, **drops)


def mistral() -> Any:
    return causal_lm("MistralConfig", **WIDE, sliding_window=12)


def biogpt(dropout: float = 0.1) -> Any:
    drops = {"attention_probs_dropout_prob": dropout, "hidden_dropout_prob": dropout}
    return causal_lm("BioGptConfig", **_without_key_heads(), **drops)


def bert(is_decoder: bool = True) -> Any:
    return causal_lm("BertConfig", **_without_key_heads(), is_decoder=is_decoder)


def modernbert(**changes: Any) -> Any:
    ends = {"bos_token_id": EOS, "cls_token_id": EOS, "sep_token_id": EOS}
    return causal_lm("ModernBertDecoderConfig", **_without_key_heads() | ends | changes)


def mamba() -> Any:
    return causal_lm("MambaConfig", **SMALL, hidden_size=32, num_hidden_layers=2, state_size=4)


def _without_key_heads() -> dict[str, Any]:
    return {name: value for name, value in WIDE.items() if name != "num_key_value_heads"}


def made(shape: Callable[[], Any]) -> Any:
    """A model with an adapter, both with weights wide enough that rows differ; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = shape()
        model = add_adapter(base, LoraSettings(rank=2, target_modules="all-linear"), 0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.oracle
@pytest.mark.parametrize("shared", [0, 12])
@pytest.mark.parametrize("shape", [llama, one_key_head, qwen2, gemma, gemma3, gpt2, modernbert])
def test_packed_lines_give_the_step_of_one_padded_batch(shape: Callable[[], Any], shared: int) -> None:
    rows, model = some_rows(20, 7, shared), made(shape)
    loss, gradients = plain_step(model.train(), rows)
    assert enable_packing(model, 36)
    assert model.config._attn_implementation == ATTENTION_NAME
    for layout in (Collator(99, 9999, PAD, packed=True), Collator(7, 40, PAD, packed=True)):
        step, result = step_of(model, layout.batches(rows))
        assert step.loss == pytest.approx(loss, rel=1e-5)
        assert_same(result, gradients)


@pytest.mark.parametrize("shape", [mistral, dynamic_llama, bloom, mamba, lambda: gpt2(0.1), biogpt, bert])
def test_a_model_that_cannot_take_packed_rows_is_left_unchanged(shape: Callable[[], Any]) -> None:
    """A window shorter than the rows, positions that hang on the whole line, attention of its own, dropped weights."""
    model = made(shape)
    before = model.config._attn_implementation
    assert not enable_packing(model, 24)
    assert model.config._attn_implementation == before


@pytest.mark.oracle
@pytest.mark.parametrize("shape", EAGER, ids=lambda shape: shape.__name__)
def test_models_with_custom_attention_are_tuned_on_padded_rows(shape: Callable[[], Any], tmp_path: Path) -> None:
    """As they come from a folder: loss and gradients of the padded layout are the model's own."""
    made(shape).get_base_model().save_pretrained(tmp_path)
    model, rows = made(lambda: new_model_from_config(tmp_path, {})), some_rows(12, 3)
    loss, gradients = plain_step(model.train(), rows)
    assert not enable_packing(model, 36)
    step, result = step_of(model, Collator(5, 999, PAD, packed=False).batches(rows))
    assert step.loss == pytest.approx(loss, rel=1e-5)
    assert_same(result, gradients)


@pytest.mark.parametrize("shape", [biogpt, bert, mamba, lambda: modernbert(local_attention=8)])
def test_models_that_drop_or_keep_states_are_tuned_on_padded_rows(shape: Callable[[], Any]) -> None:
    """Every weight of the adapter learns, and asking a model in training mode draws no random numbers."""
    model = made(shape).train()
    chance = torch.get_rng_state()
    assert not enable_packing(model, 36)
    assert torch.equal(torch.get_rng_state(), chance)
    step, gradients = step_of(model, Collator(5, 999, PAD, packed=False).batches(some_rows(12, 3)))
    assert step.loss > 0
    assert min(gradient.norm() for gradient in gradients) > 0


def test_a_model_that_is_not_causal_is_refused() -> None:
    check_causal(made(bert))
    with pytest.raises(ModelError, match=r"bert model: a token sees those after it\n.*\nremedy: is_decoder"):
        check_causal(made(lambda: bert(is_decoder=False)))


def test_modules_that_an_adapter_cannot_change_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"adapter.target_modules: .* reads? the weights of backbone.layers.0.mixer"):
        add_adapter(mamba(), LoraSettings(target_modules=["in_proj", "dt_proj"]), 0)

    def refusing(*args: Any) -> Any:
        raise ValueError("[PEFT] no such\nmodule")

    monkeypatch.setattr("peft.get_peft_model", refusing)
    with pytest.raises(ModelError, match=r"PEFT refuses \{'target_modules': \['q_proj'\]\}: \[PEFT\] no such module"):
        add_adapter(llama(), LoraSettings(target_modules=["q_proj"]), 0)


def test_a_probed_model_is_left_unchanged() -> None:
    """A base at rest inside a model that learns stays at rest."""
    model = made(llama).train()
    model.get_base_model().model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    assert enable_packing(model, 24)
    assert [module.training for module in model.modules()] == modes


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = made(llama)
    assert enable_packing(model, 24)
    batches = Collator(99, 9999, PAD, packed=True).batches(some_rows(9))
    step, gradients = step_of(model, batches)
    calls = []
    model.get_base_model().model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    step_of(model, batches)
    once = len(calls)
    enable_gradient_checkpointing(model, "tune.gradient_checkpointing")
    again, result = step_of(model, batches)
    assert len(calls) - once > once > 0
    assert again.loss == pytest.approx(step.loss, rel=1e-6)
    assert_same(result, gradients)


@pytest.mark.parametrize("recomputed", [False, True])
def test_no_gradient_goes_below_the_lowest_adapter(recomputed: bool) -> None:
    model = add_adapter(
        llama(num_hidden_layers=3), LoraSettings(rank=2, target_modules=["model.layers.1.mlp.up_proj"]), 0
    )
    if recomputed:
        enable_gradient_checkpointing(model, "tune.gradient_checkpointing")
    model.train()
    layers: Any = model.get_base_model().model.layers
    needed: list[bool] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: needed.append(output.requires_grad))
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert needed[:3] == [False, True, True]


def test_a_model_that_cannot_recompute_names_the_setting() -> None:
    model = made(llama)
    model.get_base_model().supports_gradient_checkpointing = False
    with pytest.raises(SettingsError, match=r"tune.gradient_checkpointing: this model cannot"):
        enable_gradient_checkpointing(model, "tune.gradient_checkpointing")


def test_an_estimate_is_of_a_training_that_recomputes() -> None:
    def measured(model: Any) -> tuple[int, int]:
        """The numbers kept for the backward pass of one step, and the estimate of memory."""
        kept = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        [batch] = Collator(99, 9999, PAD, packed=False).batches(some_rows(4))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = estimate(model, [batch], 10, 1, 0)
        assert not model.training
        return kept, result.memory_bytes

    plain, recomputing = made(llama).eval(), made(llama).eval()
    enable_gradient_checkpointing(recomputing, "tune.gradient_checkpointing")
    (kept, memory), (less, smaller) = measured(plain), measured(recomputing)
    assert less < kept / 2
    assert smaller < memory


def test_memory_that_runs_out_names_the_setting() -> None:
    model = made(llama)

    def full(*words: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.get_base_model().model.forward = full
    optimizers = adamw([p for p in model.parameters() if p.requires_grad], 1e-3, (0.9, 0.99), 1e-8, 0.0)
    batches = Collator(99, 9999, PAD, packed=False).batches(some_rows(4))
    with pytest.raises(SettingsError, match="batch_tokens"):
        list(train(model, iter([batches]), optimizers, [1.0]))
    with pytest.raises(SettingsError, match=r"batch_tokens.*\n.*lower pretrain.micro_batch_tokens"):
        evaluate_loss(model, batches, "lower pretrain.micro_batch_tokens")


def test_memory_that_runs_out_in_the_optimiser_names_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: Any, **named: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")

    model = made(llama)
    optimizers = adamw([p for p in model.parameters() if p.requires_grad], 1e-3, (0.9, 0.99), 1e-8, 0.0)
    monkeypatch.setattr(optimizers.members[0], "step", full)
    batches = Collator(99, 9999, PAD, packed=False).batches(some_rows(4))
    with pytest.raises(SettingsError, match="optimizer: memory ran out in a step of the optimiser"):
        list(train(model, iter([batches]), optimizers, [1.0]))
