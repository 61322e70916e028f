"""Packed weights: the products are the plain ones, follow a change of the weights, and have a bound."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lotune.generate import products
from lotune.generate.products import MOST_ROWS, Products, multiplies

PACKS = torch.backends.mkl.is_available()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 63, 64, 65, 200, MOST_ROWS, MOST_ROWS + 1])
def test_a_product_is_that_of_the_layer(rows: int, bias: bool) -> None:
    layer, given = nn.Linear(40, 70, bias=bias), torch.randn(rows, 40)
    with torch.inference_mode():
        assert torch.allclose(Products()(layer, given), layer(given), atol=1e-5)


@pytest.mark.skipif(not PACKS, reason="PyTorch was built without MKL")
def test_weights_are_packed_once_and_again_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert multiplies()
    packed, pack = list[int](), products._pack
    monkeypatch.setattr(products, "_pack", lambda weight: packed.append(len(weight)) or pack(weight))
    layer, given, found = nn.Linear(8, 9), torch.randn(4, 8), Products()
    with torch.inference_mode():
        found(layer, given[:1])
        assert packed == []
        found(layer, given)
        found(layer, given)
        assert packed == [9]
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.inference_mode():
        assert torch.allclose(found(layer, given), layer(given), atol=1e-5)
        assert packed == [9, 9]
    layer.weight = nn.Parameter(torch.randn(9, 8))
    with torch.inference_mode():
        assert torch.allclose(found(layer, given), layer(given), atol=1e-5)


def test_layers_beyond_the_bound_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MOST_BYTES", 100)
    small, large, given, found = nn.Linear(4, 4), nn.Linear(4, 40), torch.randn(3, 4), Products()
    with torch.inference_mode():
        for layer in (small, large, large):
            assert torch.allclose(found(layer, given), layer(given), atol=1e-5)
    assert [one.packed is not None for one in found._known.values()] == [PACKS, False]


def test_where_products_are_not_the_plain_ones_weights_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> torch.Tensor:
        return torch.zeros(())

    monkeypatch.setattr(products, "_multiply", wrong)
    multiplies.cache_clear()
    try:
        layer, given = nn.Linear(4, 6), torch.randn(3, 4)
        with torch.inference_mode():
            assert torch.allclose(Products()(layer, given), layer(given), atol=1e-5)
    finally:
        multiplies.cache_clear()


@pytest.mark.parametrize("layer", [nn.Linear(4, 6, dtype=torch.bfloat16), nn.Sequential(nn.Linear(4, 6))])
def test_other_layers_are_called_as_they_are(layer: nn.Module) -> None:
    given = torch.randn(3, 4).to(next(layer.parameters()).dtype)
    with torch.inference_mode():
        assert torch.equal(Products()(layer, given), layer(given))
