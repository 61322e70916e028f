"""Int8 layers are close to float32's, do not mix rows, and are used where they are right and faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import causal_lm, with_random_adapter
from torch import nn

from lotune.generate.engine import Engine
from lotune.generate.requests import Request
from lotune.model import int8
from lotune.model.adapters import add_adapter
from lotune.model.int8 import Int8Linear, is_int8, quantize_int8
from lotune.model.methods.registry import adapter_settings


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Int8 counts as right and fast, whatever the processor."""
    monkeypatch.setattr(int8, "_probe", lambda outputs, inputs: (0.0, 1.0, 2.0))


def test_products_are_close_and_rows_do_not_meet() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(96, 40)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(40, 96, generator=generator))
    quantized = Int8Linear(layer.weight, layer.bias)
    rows = torch.randn(5, 96, generator=generator) * torch.tensor([[1e-3], [1.0], [50.0], [0.0], [3.0]])
    expected, found = layer(rows), quantized(rows)
    scale = (expected - layer.bias).abs().amax(1, keepdim=True)
    assert ((found - expected).abs() <= 0.03 * scale + 1e-6).all()
    assert torch.equal(found[3], layer.bias.detach())  # a row of zeros
    for number in range(5):  # bit for bit, whatever is beside it
        assert torch.equal(quantized(rows[number]), found[number])
        assert torch.equal(quantized(rows[number:])[0], found[number])
    assert quantized(rows.view(5, 1, 96)).shape == (5, 1, 40)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", ["LlamaConfig", "GPT2Config"])
def test_a_model_answers_in_int8_as_in_float32(byte_tokenizer: Any, kind: str) -> None:
    shapes = {
        "LlamaConfig": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
        "GPT2Config": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    }
    torch.manual_seed(0)
    model = (
        causal_lm(kind, vocab_size=300, bos_token_id=None, eos_token_id=0, **shapes[kind]).eval().requires_grad_(False)
    )
    rows = [Request(tuple(byte_tokenizer(text)["input_ids"]), 4) for text in ("one and one", "two", "three is three")]
    ids = torch.tensor([[5, 9, 20, 77]])
    before = model(ids).logits
    report = quantize_int8(model)
    assert report.layers == (15 if kind == "LlamaConfig" else 9)
    assert is_int8(model)
    assert (model(ids).logits - before).abs().max() < 0.05 * before.abs().max()
    engine = Engine(model, byte_tokenizer)
    together = dict(engine.stream(rows))
    for number, row in enumerate(rows):
        [(_, alone)] = Engine(model, byte_tokenizer).stream([row])
        assert alone.token_ids == together[number].token_ids


@pytest.mark.usefixtures("fast")
def test_adapters_stay_in_float32(tiny_llama: Any) -> None:
    model = with_random_adapter(add_adapter(tiny_llama, adapter_settings("lora"), 1), 0.1)
    ids = torch.tensor([[5, 9, 20, 77]])
    before = model(input_ids=ids).logits
    quantize_int8(model)
    kept = {name: module for name, module in model.named_modules() if "lora_" in name}
    assert kept
    assert not any(isinstance(module, Int8Linear) for module in kept.values())
    after = model(input_ids=ids).logits
    assert (after - before).abs().max() < 0.05 * before.abs().max()
    with model.disable_adapter():
        assert (model(input_ids=ids).logits - after).abs().max() > 1e-3  # the adapter still acts


@pytest.mark.parametrize(
    ("probed", "why"),
    [((0.5, 1.0, 2.0), "its products are off by 0.5"), ((0.0, 2.0, 1.0), "its products take 2.00 of float32's time")],
)
def test_a_model_stays_in_float32_where_int8_is_wrong_or_slower(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch, probed: tuple[float, ...], why: str
) -> None:
    monkeypatch.setattr(int8, "_probe", lambda outputs, inputs: probed)
    report = quantize_int8(tiny_llama)
    assert report.layers == 0
    assert report.why.startswith(why)
    assert not is_int8(tiny_llama)


def test_a_model_stays_in_float32_where_torch_cannot(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(outputs: int, inputs: int) -> Any:
        raise AttributeError("'_OpNamespace' 'quantized' object has no attribute 'linear_prepack'")

    monkeypatch.setattr(int8, "_probe", missing)
    assert quantize_int8(tiny_llama).why.startswith("torch has no int8 products here")


def test_a_model_in_bfloat16_stays_as_it_is(tiny_llama: Any) -> None:
    assert quantize_int8(tiny_llama.bfloat16()).layers == 0


def test_the_probe_finds_this_torch_right() -> None:
    error, seconds, float_seconds = int8._probe(64, 96)
    assert error < int8.MAX_ERROR
    assert seconds > 0
    assert float_seconds > 0
