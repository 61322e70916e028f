"""Measuring a saved adapter, and refusing files that are damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from lotune.errors import ModelError
from lotune.evaluate.adapter_tensors import WEIGHTS, measure_adapter, misfits
from lotune.model.catalogue import CATALOGUE

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def pair(rank: int = 8, inputs: int = 64, outputs: int = 32, **changes: object) -> dict[str, np.ndarray]:
    first, second = np.zeros((rank, inputs), "float32"), np.zeros((outputs, rank), "float32")
    return {f"{MODULE}.lora_A.weight": first, f"{MODULE}.lora_B.weight": second}


def test_ranks_and_shapes(tmp_path: Path) -> None:
    extra = {"base_model.model.model.norm.weight": np.zeros(7, "float32")}
    save_file(pair() | extra, str(tmp_path / WEIGHTS))
    layout, shapes, tensors = measure_adapter(tmp_path)
    assert dict(layout.ranks) == {"model.layers.0.self_attn.q_proj": 8}
    assert dict(shapes) == {"model.layers.0.self_attn.q_proj": (64, 32)}
    assert layout.count == 8 * (64 + 32) + 7
    assert len(tensors) == 3


def test_bfloat16_is_read(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(tensor).bfloat16() for name, tensor in pair().items()}
    save_torch(tensors, str(tmp_path / WEIGHTS))
    assert measure_adapter(tmp_path)[0].count == 8 * 96


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_that_are_not_finite(number: float, dtype: str, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(tensor).to(getattr(torch, dtype)) for name, tensor in pair().items()}
    tensors[f"{MODULE}.lora_B.weight"][3, 2] = number
    save_torch(tensors, str(tmp_path / WEIGHTS))
    with pytest.raises(ModelError, match=r"1 of 2 tensors hold numbers that are not finite.*lora_B"):
        measure_adapter(tmp_path)


def test_hostile_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_model.safetensors"):
        measure_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=r"only as pickle.*can run code"):
        measure_adapter(tmp_path)
    file = tmp_path / WEIGHTS
    for size in (2**62, 11_000_000):
        file.write_bytes(size.to_bytes(8, "little") + b"{}")
        with pytest.raises(ModelError, match=f"its header claims to have {size:,} bytes"):
            measure_adapter(tmp_path)
    for content in (b"", b"\x05", (8).to_bytes(8, "little") + b"[[[[[[[[", (90).to_bytes(8, "little") + b"{}"):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read"):
            measure_adapter(tmp_path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match="cannot be read"):
        measure_adapter(tmp_path)


def test_matrices_that_do_not_belong_together(tmp_path: Path) -> None:
    whole = pair()
    save_file({name: tensor for name, tensor in whole.items() if "lora_A" in name}, str(tmp_path / WEIGHTS))
    with pytest.raises(ModelError, match=r"q_proj has only one of LoRA's two matrices"):
        measure_adapter(tmp_path)
    whole[f"{MODULE}.lora_B.weight"] = np.zeros((32, 4), "float32")
    save_file(whole, str(tmp_path / WEIGHTS))
    with pytest.raises(ModelError, match="have ranks 8 and 4"):
        measure_adapter(tmp_path)


def test_modules_that_do_not_fit_the_base() -> None:
    base = CATALOGUE["llama-3-8b"].shape
    name = "model.layers.0.self_attn.k_proj"
    assert misfits({name: (4096, 1024)}, base) == []
    assert (
        "4096 inputs and 4096 outputs, the base has one of 4096 inputs and 1024"
        in misfits({name: (4096,) * 2}, base)[0]
    )
    assert "the base lacks, such as h.0.c" in misfits({name: (4096, 1024), "h.0.c": (1, 1)}, base)[0]
