"""bfloat16 where the products of the work are measured to be clearly faster; the first measurement holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from lotune.model import dtype_benchmark
from lotune.model.dtype_benchmark import (
    MAX_TIMED_ROWS,
    MAX_TIMED_STEPS,
    MatmulSeconds,
    Product,
    bfloat16_is_faster,
    choose_training_dtype,
    matrix_products,
    measure_products,
)

Measured = Callable[[float, float], list[object]]
WORK = [Product(64, 32, 16, 2)]


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dtype_benchmark, "processor", lambda: "Model One")
    bfloat16_is_faster.cache_clear()
    yield
    bfloat16_is_faster.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Says what is measured from now on in another process; what is measured is listed."""
    monkeypatch.setattr(dtype_benchmark, "processor_flags", lambda: {"avx2", "avx512_bf16"})

    def say(float32: float, bfloat16: float) -> list[object]:
        asked: list[object] = []

        def found(what: Any, *_: Any) -> MatmulSeconds:
            asked.append(what)
            return MatmulSeconds(float32, bfloat16)

        monkeypatch.setattr(dtype_benchmark, "measure", found)
        monkeypatch.setattr(dtype_benchmark, "measure_products", found)
        bfloat16_is_faster.cache_clear()
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
def test_bfloat16_is_chosen_if_it_is_clearly_faster(
    measured: Measured, float32: float, bfloat16: float, faster: bool
) -> None:
    asked = measured(float32, bfloat16)
    result = choose_training_dtype("cpu", WORK)
    assert result.dtype == ("bfloat16" if faster else "float32")
    assert choose_training_dtype("cpu", WORK) == result
    assert asked == [WORK]
    assert f"{1e3 * float32:.1f} ms in float32" in result.why
    assert result.figures["products"] == [[64, 32, 16, 2]]
    assert (result.figures["float32"], result.figures["processor"]) == (float32, "Model One")


def test_the_choice_is_cached_by_cpu_and_products(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(0.003, 0.001)
    assert choose_training_dtype("cpu", WORK).dtype == "bfloat16"
    again = measured(0.001, 0.003)
    assert choose_training_dtype("cpu", WORK).dtype == "bfloat16"
    assert not again
    other = [Product(64, 32, 17, 2)]
    assert choose_training_dtype("cpu", other).dtype == "float32"
    assert choose_training_dtype("cpu", WORK, trains_all=True).dtype == "float32"
    monkeypatch.setattr(dtype_benchmark, "processor", lambda: "Model Two")
    assert choose_training_dtype("cpu", WORK).dtype == "float32"
    assert again == [other, WORK, WORK]
    files = sorted((tmp_path / "lotune" / "number-formats").iterdir())
    assert len(files) == 4
    assert {json.loads(file.read_text())["processor"] for file in files} == {"Model One", "Model Two"}


def test_of_processes_that_measure_at_once_the_first_decides(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(0.003, 0.001)
    other = dtype_benchmark.measure_products

    def meanwhile(products: Any, *_: Any) -> MatmulSeconds:
        monkeypatch.setattr(dtype_benchmark, "measure_products", other)
        assert choose_training_dtype("cpu", products).dtype == "bfloat16"
        return MatmulSeconds(0.001, 0.003)

    monkeypatch.setattr(dtype_benchmark, "measure_products", meanwhile)
    assert choose_training_dtype("cpu", WORK).dtype == "bfloat16"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"float32": 1}'])
def test_a_damaged_file_is_measured_past(measured: Measured, tmp_path: Path, content: str) -> None:
    measured(0.003, 0.001)
    assert choose_training_dtype("cpu", WORK).dtype == "bfloat16"
    [file] = (tmp_path / "lotune" / "number-formats").iterdir()
    file.write_text(content)
    measured(0.001, 0.003)
    assert choose_training_dtype("cpu", WORK).dtype == "float32"


def test_without_a_cache_folder_products_are_measured(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    measured(0.003, 0.001)
    assert choose_training_dtype("cpu", WORK).dtype == "bfloat16"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_bfloat16_instructions_nothing_is_measured(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    asked = measured(0.003, 0.001)
    monkeypatch.setattr(dtype_benchmark, "processor_flags", lambda: {"avx2", "avx512f"})
    assert choose_training_dtype(device, WORK).dtype == "float32"
    assert not bfloat16_is_faster(device)
    assert not asked


def test_each_kind_of_gpu_is_measured(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device[-1]}/2")
    asked = measured(0.003, 0.001)
    assert bfloat16_is_faster("cuda:0")
    assert choose_training_dtype("cuda:1", WORK).dtype == "bfloat16"
    assert asked == ["cuda:0", "cuda:1"]


def test_the_products_are_the_linear_layers_of_the_model(tiny_llama: LlamaForCausalLM) -> None:
    result = matrix_products(tiny_llama, 99)
    assert result == [
        Product(99, 32, 300, 1), Product(99, 32, 64, 4), Product(99, 32, 32, 4), Product(99, 64, 32, 2),
    ]  # fmt: skip


@given(st.builds(Product, st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 10**5), st.just(1)))
def test_the_timed_products_are_small(product: Product) -> None:
    result = dtype_benchmark._smaller(product)
    assert dtype_benchmark._work(result) <= MAX_TIMED_STEPS
    assert result.rows == min(product.rows, MAX_TIMED_ROWS)
    assert 1 <= result.inputs <= product.inputs
    assert 1 <= result.outputs <= product.outputs


def test_a_measurement_is_an_estimate_of_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(dtype_benchmark.time, "thread_time", lambda: next(clock))  # a product takes one second
    monkeypatch.setattr(dtype_benchmark, "BUDGET_SECONDS", 0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert measure_products([Product(4 * MAX_TIMED_ROWS, 8, 8, 3), Product(2, 8, 8, 5)]) == (17, 17)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_format_without_products_takes_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.mm

    def refusing(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if one.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for BFloat16")
        return product(one, other)

    monkeypatch.setattr(torch, "mm", refusing)
    result = measure_products(WORK, trains_all=True)
    assert result.bfloat16 == math.inf
    assert 0 < result.float32 < math.inf
