"""The rank of the difference between a merged model and its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lotune.errors import ModelError
from lotune.evaluate import merged_difference
from lotune.evaluate.merged_difference import compare_checkpoints, merged_ranks


def write(folder: Path, tensors: dict[str, Tensor], dtype: str = "float32", parts: int = 1) -> Path:
    """Write a model of these tensors, in one file or in several with their index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    typed = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in tensors.items()}
    if parts == 1:
        save_file(typed, str(folder / "model.safetensors"))
        return folder
    files = {name: f"part-{number % parts}.safetensors" for number, name in enumerate(typed)}
    for file in set(files.values()):
        save_file({name: typed[name] for name in typed if files[name] == file}, str(folder / file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    return 0.03 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def low_rank(rows: int, columns: int, rank: int, size: float) -> Tensor:
    """A matrix of a rank whose singular values are `size`."""
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.linalg.qr(torch.randn(side, rank, generator=generator)).Q for side in (rows, columns))
    return size * left @ right.T


SHAPES = [(96, 160), (700, 80), (80, 700), (640, 600)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 7])
def test_the_rank_is_told(
    dtype: str, shape: tuple[int, int], rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_difference, "BLOCK_NUMBERS", 9_000)  # several blocks, the last one shorter
    base = weight(*shape).to(getattr(torch, dtype)).float()
    write(tmp_path / "base", {"w.weight": base, "n": torch.ones(5)}, dtype)
    write(tmp_path / "merged", {"w.weight": base + low_rank(*shape, rank, 0.5), "n": torch.ones(5)}, dtype)
    found = compare_checkpoints(tmp_path / "merged", tmp_path / "base")
    assert found.tensors == 2
    [difference] = found.differences
    assert (difference.name, difference.shape, difference.precision) == ("w.weight", shape, dtype)
    assert (difference.rank, difference.at_most) == (rank, rank)
    assert difference.is_told
    assert merged_ranks(found, {"w": shape}) == ({"w": rank}, [])
    assert merged_ranks(found, {}) == ({}, ["w.weight"])


def test_a_sketch_finds_the_singular_values_of_a_large_matrix(tmp_path: Path) -> None:
    base, change = weight(600, 700), low_rank(600, 700, 40, 0.3) + low_rank(600, 700, 3, 2.0)
    for name, tensor in (("base", base), ("merged", base + change)):
        write(tmp_path / name, {"w": tensor})
    [difference] = compare_checkpoints(tmp_path / "merged", tmp_path / "base").differences
    assert torch.linalg.matrix_rank(change) == difference.rank == difference.at_most == 43


@pytest.mark.parametrize("shape", [(96, 160), (640, 600)])
def test_a_change_in_full_is_no_low_rank(shape: tuple[int, int], tmp_path: Path) -> None:
    base = weight(*shape)
    for name, tensor in (("base", base), ("merged", base + weight(*shape, seed=1))):
        write(tmp_path / name, {"w": tensor})
    [difference] = compare_checkpoints(tmp_path / "merged", tmp_path / "base").differences
    assert difference.at_most == min(shape)
    assert difference.rank is not None
    assert difference.rank >= 90


def test_a_change_below_rounding_cannot_be_told(tmp_path: Path) -> None:
    base = weight(256, 256).bfloat16().float()
    write(tmp_path / "base", {"w": base}, "bfloat16")
    for size in (0.004, 0.01, 0.02, 0.04, 0.08):
        merged = write(tmp_path / "merged", {"w": base + low_rank(256, 256, 6, size)}, "bfloat16")
        for difference in compare_checkpoints(merged, tmp_path / "base").differences:
            assert difference.rank is not None
            assert difference.at_most is not None
            assert difference.rank <= 6 <= difference.at_most
            assert not difference.is_told or difference.rank == 6


def test_singular_values_of_all_sizes_are_never_overcounted(tmp_path: Path) -> None:
    """A trained adapter has large and small singular values; those near rounding leave the rank open."""
    base, generator = weight(300, 300).bfloat16().float(), torch.Generator().manual_seed(2)
    left, right = (torch.linalg.qr(torch.randn(300, 8, generator=generator)).Q for _ in range(2))
    change = left @ torch.diag(torch.logspace(0, -4, 8)) @ right.T
    write(tmp_path / "base", {"w": base}, "bfloat16")
    write(tmp_path / "merged", {"w": base + change}, "bfloat16")
    [difference] = compare_checkpoints(tmp_path / "merged", tmp_path / "base").differences
    assert difference.rank is not None
    assert 1 <= difference.rank < 8
    assert difference.at_most == 300


def test_bfloat16_numbers_in_a_float32_file_are_recognised(tmp_path: Path) -> None:
    base = weight(128, 128).bfloat16().float()
    write(tmp_path / "base", {"w": base})
    write(tmp_path / "merged", {"w": (base + low_rank(128, 128, 4, 0.5)).bfloat16()}, "float32")
    [difference] = compare_checkpoints(tmp_path / "merged", tmp_path / "base").differences
    assert (difference.precision, difference.rank, difference.at_most) == ("bfloat16", 4, 4)


def test_files_in_parts_of_other_dtypes_and_tensors_of_one_side(tmp_path: Path) -> None:
    base = {"a.weight": weight(40, 30), "b.weight": weight(30, 40, 1), "c": torch.tensor(2.0), "old": torch.ones(2)}
    merged = {**base, "a.weight": base["a.weight"] + low_rank(40, 30, 2, 1.0), "new": torch.ones(3)}
    del merged["old"]
    write(tmp_path / "base", base, "float32", parts=3)
    write(tmp_path / "merged", merged, "bfloat16", parts=2)
    seen: list[tuple[int, int]] = []
    found = compare_checkpoints(tmp_path / "merged", tmp_path / "base", lambda done, total: seen.append((done, total)))
    assert [one.name for one in found.differences] == ["a.weight"]  # b differs by the rounding of its dtype alone
    assert (found.only_merged, found.only_base) == (("new",), ("old",))
    assert seen[-1] == (3, 3)


def test_tensors_without_a_rank(tmp_path: Path) -> None:
    base: dict[str, Any] = {"norm": torch.ones(8), "embedding": weight(20, 8), "scale": torch.tensor(1.0)}
    write(tmp_path / "base", base)
    changed = {"norm": torch.ones(8) * 2, "embedding": weight(24, 8), "scale": torch.tensor(3.0)}
    write(tmp_path / "merged", changed)
    found = {one.name: one for one in compare_checkpoints(tmp_path / "merged", tmp_path / "base").differences}
    assert (found["norm"].rank, found["norm"].largest, found["scale"].largest) == (None, 1.0, 2.0)
    assert (found["embedding"].largest, found["embedding"].is_told) == (None, False)


@pytest.mark.parametrize("names", [("h.0.w.weight", "transformer.h.0.w.weight"), ("model.w.weight", "w.weight")])
def test_names_with_and_without_their_prefix(names: tuple[str, str], tmp_path: Path) -> None:
    tensor = weight(30, 20)
    write(tmp_path / "base", {names[0]: tensor, "other": torch.ones(2)})
    write(tmp_path / "merged", {names[1]: tensor + low_rank(30, 20, 2, 1.0)})
    [difference] = compare_checkpoints(tmp_path / "merged", tmp_path / "base").differences
    assert (difference.name, difference.rank) == (max(names, key=len), 2)


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    base = write(tmp_path / "base", {"w": weight(20, 20)})
    with pytest.raises(ModelError, match=r"has no tensor of .*base, such as w"):
        compare_checkpoints(write(tmp_path / "other", {"x": weight(20, 20)}), base)
    broken = weight(20, 20)
    broken[3, 4] = float("nan")
    with pytest.raises(ModelError, match="w: holds numbers that are not finite"):
        compare_checkpoints(write(tmp_path / "nan", {"w": broken}), base)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="is damaged"):
        compare_checkpoints(tmp_path / "other", base)
    (tmp_path / "other" / "model.safetensors").unlink()
    (tmp_path / "other" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=r"has no model.safetensors"):
        compare_checkpoints(tmp_path / "other", base)
