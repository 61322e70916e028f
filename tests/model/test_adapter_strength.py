"""An adapter at another strength: which tensors are scaled, by how much, and that PEFT computes the same with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from lotune.errors import ModelError
from lotune.model.adapter_strength import at_strengths, save_at_strengths, strength_factors
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import ADAPTER_WEIGHTS, load_adapter, save_adapter
from lotune.model.loading import load_model
from lotune.model.methods.registry import adapter_settings
from lotune.model.settings import BaseSettings

LORA = SimpleNamespace(peft_type="LORA", use_dora=False)
NAMES = [
    *(
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight"
        for layer in range(4)
        for part in "AB"
    ),
    "base_model.model.lm_head.lora_B.weight",
]
IDS = torch.tensor([[5, 9, 2, 30, 7]])


def nano() -> BaseSettings:
    return BaseSettings(model="nano", dtype="float32")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_model(nano(), "cpu")
    model = add_adapter(base.model, adapter_settings("lora", rank=2), 1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    save_adapter(model, folder, '{"template": "plain"}', base)
    return folder


def test_a_strength_scales_b_alone() -> None:
    factors = strength_factors(LORA, NAMES, (0.8,))
    assert set(factors) == {name for name in NAMES if ".lora_B." in name}
    assert set(factors.values()) == {0.8}


def test_neighbouring_layers_share_a_strength_and_the_head_has_the_last() -> None:
    factors = strength_factors(LORA, NAMES, (0.5, 1.0))
    by_layer = [factors[f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_B.weight"] for layer in range(4)]
    assert by_layer == [0.5, 0.5, 1.0, 1.0]
    assert factors["base_model.model.lm_head.lora_B.weight"] == 1.0


@pytest.mark.parametrize(
    ("config", "strengths", "error"),
    [
        (SimpleNamespace(peft_type="LORA", use_dora=True), (0.8,), "have no strength"),
        (SimpleNamespace(peft_type="PROMPT_TUNING"), (0.8,), "have no strength"),
        (LORA, (0.8,) * 5, "5 groups, and the adapter changes 4 layers"),
    ],
)
def test_what_has_no_strength_is_refused(config: SimpleNamespace, strengths: tuple[float, ...], error: str) -> None:
    with pytest.raises(ModelError, match=error):
        strength_factors(config, NAMES, strengths)


def test_a_saved_adapter_at_a_strength_is_the_loaded_one_at_that_strength(adapter: Path, tmp_path: Path) -> None:
    strengths = (0.3, 0.9)
    model = load_adapter(load_model(nano(), "cpu"), adapter)
    with torch.no_grad():
        full = model(IDS).logits
        with at_strengths(model, strengths):
            weaker = model(IDS).logits
        assert torch.equal(model(IDS).logits, full), "the strength is that of the context only"
    target = tmp_path / "weaker" / "adapter"
    save_at_strengths(adapter, target, strengths)
    with torch.no_grad():
        again = load_adapter(load_model(nano(), "cpu"), target)(IDS).logits
    assert not torch.allclose(weaker, full)
    assert torch.equal(again, weaker)
    assert sorted(file.name for file in target.iterdir()) == sorted(file.name for file in adapter.iterdir())
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as old, safe_open(target / ADAPTER_WEIGHTS, "pt") as new:
        assert new.metadata() == old.metadata(), "it still says of which base it is"


@pytest.mark.oracle
def test_peft_scales_the_same(adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    target = tmp_path / "weaker"
    save_at_strengths(adapter, target, (0.6,))
    scaled = PeftModel.from_pretrained(load_model(nano(), "cpu").model, str(target))
    expected = PeftModel.from_pretrained(load_model(nano(), "cpu").model, str(adapter))
    for module in expected.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(0.6)
    with torch.no_grad():
        torch.testing.assert_close(scaled(IDS).logits, expected(IDS).logits, atol=1e-5, rtol=1e-5)
