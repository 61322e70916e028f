"""bfloat16 where it is measured to be clearly faster; the first measurement holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lotune.model import number_format
from lotune.model.number_format import Seconds, computes_bfloat16, measure

Measured = Callable[[float, float], list[str]]


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computes_bfloat16.cache_clear()
    yield
    computes_bfloat16.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Says what is measured from now on in another process; the devices that are measured are listed."""
    monkeypatch.setattr(number_format, "processor_flags", lambda: {"avx2", "avx512_bf16"})

    def say(float32: float, bfloat16: float) -> list[str]:
        asked: list[str] = []

        def found(device: str) -> Seconds:
            asked.append(device)
            return Seconds(float32, bfloat16)

        monkeypatch.setattr(number_format, "measure", found)
        computes_bfloat16.cache_clear()
        return asked

    return say


@pytest.mark.parametrize(
    ("float32", "bfloat16", "faster"),
    [
        (0.006, 0.001, True),
        (0.00301, 0.002, True),
        (0.003, 0.002, False),
        (0.002, 0.004, False),
        (1.0, math.inf, False),
    ],
)
def test_it_is_taken_where_it_is_clearly_faster(
    measured: Measured, float32: float, bfloat16: float, faster: bool
) -> None:
    asked = measured(float32, bfloat16)
    assert computes_bfloat16("cpu") is faster
    assert computes_bfloat16("cpu") is faster
    assert asked == ["cpu"]


def test_what_was_measured_first_holds_in_every_process(measured: Measured, tmp_path: Path) -> None:
    measured(0.003, 0.001)
    assert computes_bfloat16("cpu")
    again = measured(0.001, 0.003)
    assert computes_bfloat16("cpu")
    assert not again
    [file] = (tmp_path / "lotune" / "number-formats").iterdir()
    file.unlink()
    computes_bfloat16.cache_clear()
    assert not computes_bfloat16("cpu")
    assert again == ["cpu"]


def test_of_processes_that_measure_at_once_the_first_decides(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(0.003, 0.001)
    other = number_format.measure

    def meanwhile(device: str) -> Seconds:
        monkeypatch.setattr(number_format, "measure", other)
        computes_bfloat16.cache_clear()
        assert computes_bfloat16(device)
        return Seconds(0.001, 0.003)

    monkeypatch.setattr(number_format, "measure", meanwhile)
    assert computes_bfloat16("cpu")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"float32": 1}'])
def test_a_damaged_file_is_measured_past(measured: Measured, tmp_path: Path, content: str) -> None:
    measured(0.003, 0.001)
    assert computes_bfloat16("cpu")
    [file] = (tmp_path / "lotune" / "number-formats").iterdir()
    file.write_text(content)
    measured(0.001, 0.003)
    assert not computes_bfloat16("cpu")


def test_where_nothing_can_be_remembered_it_is_measured(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    measured(0.003, 0.001)
    assert computes_bfloat16("cpu")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_a_unit_nothing_is_measured(measured: Measured, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    asked = measured(0.003, 0.001)
    monkeypatch.setattr(number_format, "processor_flags", lambda: {"avx2", "avx512f"})
    assert not computes_bfloat16(device)
    assert not asked


def test_each_kind_of_gpu_is_measured(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device[-1]}/2")
    asked = measured(0.003, 0.001)
    assert computes_bfloat16("cuda:0")
    assert computes_bfloat16("cuda:1")
    assert asked == ["cuda:0", "cuda:1"]


def test_a_measurement_is_short_and_a_format_without_products_takes_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    found = measure("cpu")
    assert 0 < found.float32 < 1
    assert found.bfloat16 > 0
    assert torch.equal(torch.get_rng_state(), state)
    product = torch.mm

    def refusing(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if one.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for BFloat16")
        return product(one, other)

    monkeypatch.setattr(torch, "mm", refusing)
    assert measure("cpu").bfloat16 == math.inf
