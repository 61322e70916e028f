"""The lean pass beside transformers' own, row by row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lotune.generate.continuous_batching import MAX_RUNNING, ContinuousBatcher
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.kv_cache import SlotCache
from lotune.generate.llama_forward import ForwardInput, LlamaForward
from lotune.generate.requests import Request
from lotune.model.adapters import add_adapter
from lotune.model.methods.lora import LoraSettings
from tests.generate.test_engine import WIDE, gemma3, gpt2, llama, made, qwen2, theirs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def one_key_head() -> PreTrainedModel:
    return llama(num_key_value_heads=1)


def biased() -> PreTrainedModel:
    return llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=False)


def scaled() -> PreTrainedModel:
    return llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0})


def qwen3() -> PreTrainedModel:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**WIDE, head_dim=16))


def plain_mistral() -> PreTrainedModel:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**WIDE, sliding_window=None))


def adapted() -> PreTrainedModel:
    model = add_adapter(llama(), LoraSettings(rank=4, target_modules="all-linear"), 1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.2)
    base: PreTrainedModel = model.get_base_model()
    return base


def granite() -> PreTrainedModel:
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**WIDE, residual_multiplier=0.3))


def hooked() -> PreTrainedModel:
    model = llama()
    model.model.layers[1].register_forward_hook(lambda *_: None)
    return model


def replaced() -> PreTrainedModel:
    """With a forward of its own laid over one module, as offloading does."""
    model = llama()
    layer: Any = model.model.layers[1].mlp.up_proj
    layer.forward = lambda x: torch.nn.functional.linear(x, layer.weight) * 2
    return model


LEAN = [llama, one_key_head, biased, scaled, qwen2, qwen3, plain_mistral, adapted]


@pytest.mark.oracle
@pytest.mark.parametrize("shape", LEAN, ids=lambda shape: shape.__name__)
@torch.inference_mode()
def test_passes_give_the_logits_of_each_row_alone(shape: Callable[[], PreTrainedModel]) -> None:
    """Rows of unlike lengths read from the beginning, then further, then token by token, in slots of their own."""
    model = made(shape)
    lean, cache = LlamaForward.of(model, model), SlotCache(4, 40)
    assert lean is not None
    torch.manual_seed(2)
    rows = torch.randint(2, 300, (3, 40))
    firsts, seconds = [9, 5, 7], [4, 8, 1]
    positions = torch.arange(9).expand(3, -1)
    lean.forward(ForwardInput(1, rows[:, :9], positions, 9, firsts, fresh=True), None, cache)
    starts = torch.tensor(firsts)[:, None]
    positions = (starts + torch.arange(8)).clamp(max=39)
    mask = torch.zeros(3, 1, 8, 13).masked_fill(torch.arange(13) > positions[:, None, :, None], float("-inf"))
    hidden = lean.forward(ForwardInput(1, rows.gather(1, positions), positions, 13, seconds), mask, cache)
    ends = [first + second for first, second in zip(firsts, seconds, strict=True)]
    result = lean.logits(hidden[torch.tensor(seconds).cumsum(0) - 1])
    for row, end in enumerate(ends):
        expected = model(rows[row : row + 1, :end]).logits[0, -1]
        torch.testing.assert_close(result[row], expected, rtol=1e-4, atol=1e-4)
    positions = torch.tensor(ends)[:, None]
    mask = torch.zeros(3, 1, 1, 14).masked_fill(torch.arange(14) > positions[:, None, :, None], float("-inf"))
    for widths in (None, [(0, 2, 14), (2, 3, 9)]):
        step = ForwardInput(1, rows.gather(1, positions), positions, 14, key_spans=widths)
        result = lean.logits(lean.forward(step, mask, cache))
        for row, end in enumerate(ends):
            expected = model(rows[row : row + 1, : end + 1]).logits[0, -1]
            torch.testing.assert_close(result[row], expected, rtol=1e-4, atol=1e-4)


def scaled_queries() -> PreTrainedModel:
    """Computed like a Llama at first, and otherwise from a later place on."""
    from transformers import Ministral3Config, Ministral3ForCausalLM

    return Ministral3ForCausalLM(Ministral3Config(**WIDE, head_dim=8))


def few_words() -> PreTrainedModel:
    return llama(vocab_size=5, eos_token_id=0, pad_token_id=1)


OTHERS = [gpt2, gemma3, granite, scaled_queries, few_words, hooked, replaced]


@pytest.mark.parametrize("shape", OTHERS, ids=lambda shape: shape.__name__)
def test_a_model_that_is_computed_otherwise_has_no_lean_pass(shape: Callable[[], PreTrainedModel]) -> None:
    model = made(shape).train()
    assert LlamaForward.of(model, model) is None
    assert all(module.training for module in model.modules())


def test_an_adapter_that_waits_for_tokens_has_no_lean_pass() -> None:
    """Its wrapper decides which tokens it works on."""
    from peft import LoraConfig, get_peft_model

    wishes = {"init_lora_weights": False, "alora_invocation_tokens": [299], "task_type": "CAUSAL_LM"}
    settings = LoraConfig(r=4, target_modules=["q_proj"], **wishes)
    model = get_peft_model(made(llama), settings)
    assert LlamaForward.of(model, model.get_base_model()) is None


@pytest.mark.oracle
def test_bfloat16_is_as_close_to_float32_as_in_transformers() -> None:
    exact = made(llama)
    model = copy.deepcopy(exact).bfloat16()
    lean, cache = LlamaForward.of(model, model), SlotCache(1, 60)
    assert lean is not None
    ids, positions = torch.randint(2, 300, (1, 60), generator=torch.Generator().manual_seed(1)), torch.arange(60)[None]
    with torch.inference_mode():
        expected = exact(ids).logits[0]
        result = lean.logits(lean.forward(ForwardInput(0, ids, positions, 60, fresh=True), None, cache))
        reference_values = model(ids).logits[0]
    assert (result - expected).norm() <= 1.2 * (reference_values - expected).norm()


def test_a_part_in_training_mode_does_not_drop_anything(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    """An adapter that is added to a model at rest brings a dropout that is not."""
    from peft import LoraConfig

    model = add_adapter(made(llama), LoraSettings(rank=4, target_modules="all-linear"), 1).eval()
    engine = Engine(model, byte_tokenizer)
    model.add_adapter("b", LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False))
    model.set_adapter("b")
    learning = [module.training for module in model.modules()]
    assert any(learning)
    submitted = [Request((5, 6, 7 + number), 12, min_new_tokens=12) for number in range(3)]
    results = [dict(engine.stream(submitted, batch_tokens=200)) for _ in range(3)]
    assert results[0] == results[1] == results[2]
    assert [module.training for module in model.modules()] == learning


def test_no_more_rows_run_at_once_than_pay(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_RUNNING, "cpu", 3)
    model, submitted = made(llama), [Request((5, 6, 7 + number), 6) for number in range(8)]
    engine = Engine(model, byte_tokenizer)
    result = dict(engine.stream(submitted, batch_tokens=1000))
    assert isinstance(engine._backend, ContinuousBatcher)
    assert engine._backend.slots.slots == 3
    assert [result[index].token_ids for index in range(8)] == [theirs(model, request) for request in submitted]


def test_changed_weights_are_seen_at_the_next_pass(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model, submitted = made(llama), Request((5, 6, 7, 8), 12)
    engine = Engine(model, byte_tokenizer)
    assert isinstance(engine._backend, ContinuousBatcher)
    assert engine._backend.slots.fast is not None
    [(_, before)] = engine.stream([submitted], batch_tokens=50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.9)
    [after] = generate_completions(model, byte_tokenizer, [submitted], batch_tokens=50)
    engine.reset()
    assert dict(engine.stream([submitted], batch_tokens=50))[0] == after != before
