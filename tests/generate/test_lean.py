"""The lean pass beside transformers' own, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lotune.generate.cache import SlotCache
from lotune.generate.engine import Engine, generate
from lotune.generate.lean import Lean, Pass
from lotune.generate.requests import Request
from lotune.model.adapters import attach
from lotune.model.settings import AdapterSettings
from tests.generate.test_engine import WIDE, gemma3, gpt2, llama, made, qwen2

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
    model = attach(llama(), AdapterSettings(rank=4, target_modules="all-linear"), 1)
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
    lean, cache = Lean.of(model), SlotCache(4, 40)
    assert lean is not None
    torch.manual_seed(2)
    rows = torch.randint(2, 300, (3, 40))
    firsts, seconds = [9, 5, 7], [4, 8, 1]
    places = torch.arange(9).expand(3, -1)
    lean.read(Pass(1, rows[:, :9], places, 9, firsts, fresh=True), None, cache)
    starts = torch.tensor(firsts)[:, None]
    places = (starts + torch.arange(8)).clamp(max=39)
    mask = torch.zeros(3, 1, 8, 13).masked_fill(torch.arange(13) > places[:, None, :, None], float("-inf"))
    hidden = lean.read(Pass(1, rows.gather(1, places), places, 13, seconds), mask, cache)
    ends = [first + second for first, second in zip(firsts, seconds, strict=True)]
    found = lean.logits(hidden[torch.tensor(seconds).cumsum(0) - 1])
    for row, end in enumerate(ends):
        expected = model(rows[row : row + 1, :end]).logits[0, -1]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
    places = torch.tensor(ends)[:, None]
    mask = torch.zeros(3, 1, 1, 14).masked_fill(torch.arange(14) > places[:, None, :, None], float("-inf"))
    for widths in (None, [(0, 2, 14), (2, 3, 9)]):
        step = Pass(1, rows.gather(1, places), places, 14, widths=widths)
        found = lean.logits(lean.read(step, mask, cache))
        for row, end in enumerate(ends):
            expected = model(rows[row : row + 1, : end + 1]).logits[0, -1]
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [gpt2, gemma3, granite, hooked, replaced], ids=lambda shape: shape.__name__)
def test_a_model_that_is_computed_otherwise_has_no_lean_pass(shape: Callable[[], PreTrainedModel]) -> None:
    model = made(shape).train()
    assert Lean.of(model) is None
    assert model.training


def test_changed_weights_are_seen_at_the_next_pass(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model, asked = made(llama), Request((5, 6, 7, 8), 12)
    engine = Engine(model, byte_tokenizer)
    assert engine._slotted is not None
    assert engine._slotted.lean is not None
    [(_, before)] = engine.stream([asked], batch_tokens=50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.9)
    [after] = generate(model, byte_tokenizer, [asked], batch_tokens=50)
    engine._slotted.held = [[] for _ in engine._slotted.held]
    assert dict(engine.stream([asked], batch_tokens=50))[0] == after != before
