"""Packed weights: the products are the plain ones, follow a change of the weights, and have a bound."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from lotune.generate import packed_linear
from lotune.generate.llama_forward import LlamaForward
from lotune.generate.packed_linear import MAX_PACKED_ROWS, PackedLinears, mkl_packing_works
from tests.generate.test_engine import llama, made

PACKS = torch.backends.mkl.is_available()


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The outputs of each layer that is packed."""
    assert mkl_packing_works() == PACKS
    result, pack = list[int](), packed_linear._pack

    def watched(weight: torch.Tensor) -> torch.Tensor | None:
        result.append(len(weight))
        return pack(weight)

    monkeypatch.setattr(packed_linear, "_pack", watched)
    return result


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 63, 64, 65, 200, MAX_PACKED_ROWS, MAX_PACKED_ROWS + 1])
def test_a_product_is_that_of_the_layer(rows: int, bias: bool) -> None:
    layer, given = nn.Linear(40, 70, bias=bias), torch.randn(rows, 40)
    with torch.inference_mode():
        assert torch.allclose(PackedLinears(layer)(layer, given), layer(given), atol=1e-5)


@pytest.mark.skipif(not PACKS, reason="PyTorch was built without MKL")
def test_weights_are_packed_once_and_again_when_they_change(packed: list[int]) -> None:
    layer, given = nn.Linear(8, 9), torch.randn(4, 8)
    result = PackedLinears(layer)
    with torch.inference_mode():
        result(layer, given[:1])
        assert packed == []
        result(layer, given)
        result(layer, given)
        assert packed == [9]
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.inference_mode():
        assert torch.allclose(result(layer, given), layer(given), atol=1e-5)
        assert packed == [9, 9]
    layer.weight = nn.Parameter(torch.randn(9, 8))
    with torch.inference_mode():
        assert torch.allclose(result(layer, given), layer(given), atol=1e-5)


@pytest.mark.skipif(not PACKS, reason="PyTorch was built without MKL")
def test_weights_are_packed_at_the_first_product_of_few_rows(packed: list[int]) -> None:
    model = made(llama)
    lean = LlamaForward.of(model, model)
    assert lean is not None
    assert packed == []
    with torch.inference_mode():
        lean.logits(torch.randn(1, 32))
        lean.logits(torch.randn(MAX_PACKED_ROWS + 1, 32))
        assert packed == []
        lean.logits(torch.randn(2, 32))
    assert packed == [300]


def test_a_large_model_stays_plain(monkeypatch: pytest.MonkeyPatch, packed: list[int]) -> None:
    model, given = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 40)), torch.randn(3, 4)
    for room, expected in ((-1, []), (0, [4] * PACKS)):
        monkeypatch.setattr(packed_linear, "MAX_PACKED_BYTES", 4 * (16 + 160) + room)
        with torch.inference_mode():
            PackedLinears(model)(model[0], given)
        assert packed == expected


def test_without_free_memory_weights_stay_unpacked(monkeypatch: pytest.MonkeyPatch, packed: list[int]) -> None:
    monkeypatch.setattr(packed_linear, "_pack", lambda _: None)
    layer, given = nn.Linear(4, 6), torch.randn(3, 4)
    with torch.inference_mode():
        assert torch.equal(PackedLinears(layer)(layer, given), layer(given))


def test_if_packed_products_differ_weights_stay_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_multiply", lambda *_: torch.zeros(()))
    mkl_packing_works.cache_clear()
    try:
        layer, given = nn.Linear(4, 6), torch.randn(3, 4)
        with torch.inference_mode():
            assert torch.allclose(PackedLinears(layer)(layer, given), layer(given), atol=1e-5)
    finally:
        mkl_packing_works.cache_clear()


@pytest.mark.parametrize("layer", [nn.Linear(4, 6, dtype=torch.bfloat16), nn.Sequential(nn.Linear(4, 6))])
def test_other_layers_are_called_as_they_are(layer: nn.Module) -> None:
    given = torch.randn(3, 4).to(next(layer.parameters()).dtype)
    with torch.inference_mode():
        assert torch.equal(PackedLinears(layer)(layer, given), layer(given))


def test_a_base_in_8_bit_keeps_the_fast_forward_pass() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = deepcopy(made(llama))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    given = torch.randn(3, 32)
    with torch.inference_mode():
        lean = LlamaForward.of(model, model)
        assert lean is not None
        layer = model.model.layers[0].self_attn.q_proj
        assert torch.equal(lean.linears(layer, given), layer(given))
