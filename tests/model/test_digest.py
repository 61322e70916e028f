"""An adapter knows the weights that it was made for: the same in other files and elsewhere, and no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import RECIPE, call
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lotune.errors import ModelError
from lotune.model import digest
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import BASE_DIGEST, base_digest, init_adapter, load_adapter, merge, save_adapter
from lotune.model.digest import weights_digest
from lotune.model.loading import LoadedModel, load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.settings import BaseSettings
from tests.model.test_weight_files import INDEX, divide

WEIGHTS = "model.safetensors"
DTYPES = (torch.float32, torch.bfloat16, torch.int8)


def read(folder: Path, dtype: Any = "float32") -> LoadedModel:
    return load_model(BaseSettings(model=str(folder), dtype=dtype), "cpu")


def adapter(base: LoadedModel, folder: Path, *, ours: bool = True) -> Path:
    """A fresh adapter, saved with the base's digest where it is `ours`."""
    save_adapter(add_adapter(base.model, LoraSettings(rank=2), 0), folder, base=base if ours else None)
    return folder


def moved(base: Path, folder: Path, name: str, by: float = 0.001) -> Path:
    """A copy of a base of which one weight of one tensor differs a little."""
    shutil.copytree(base, folder)
    tensors = load_file(base / WEIGHTS)
    tensors[name].view(-1)[-1] += by
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def drawn(draw: Any) -> dict[str, torch.Tensor]:
    shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
    names = draw(
        st.lists(st.text(min_size=1, max_size=5).filter(str.isidentifier), min_size=1, max_size=5, unique=True)
    )
    made = {}
    for name in names:
        shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
        made[name] = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(len(made))).to(dtype)
    return made


@given(data=st.data())
def test_the_digest_is_that_of_the_tensors_however_they_are_stored(data: Any, tmp_path_factory: Any) -> None:
    tensors = drawn(data.draw)
    folder = tmp_path_factory.mktemp("digest")
    complete = folder / "whole.safetensors"
    save_file(tensors, complete, metadata={"format": "pt"})
    result = weights_digest([complete])
    parts: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for name, tensor in tensors.items():
        parts[data.draw(st.integers(0, 2))][name] = tensor
    files = [folder / f"{number}.safetensors" for number in range(3)]
    for file, part in zip(files, parts, strict=True):
        save_file(part, file)
    assert weights_digest(data.draw(st.permutations(files))) == result
    name = data.draw(st.sampled_from(sorted(tensors)))
    place, tensor = data.draw(st.integers(0, tensors[name].numel() - 1)), tensors[name].clone()
    tensor.view(-1)[place] += 1
    further = [{name: tensor}, {name: tensors[name][None]}, {name: tensors[name].to(torch.float64)}]
    for number, other in enumerate([tensors | item for item in further]):
        save_file(other, folder / f"other-{number}.safetensors")
        assert weights_digest([folder / f"other-{number}.safetensors"]) != result


@pytest.mark.parametrize("place", [0, -1])
def test_of_a_large_tensor_pieces_count(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_WHOLE_BYTES", 100), ("PIECES", 4), ("PIECE", 8)):
        monkeypatch.setattr(digest, name, value)
    tensor = torch.zeros(1000, dtype=torch.int8)
    results = []
    for number in range(2):
        save_file({"a": tensor}, tmp_path / f"{number}.safetensors")
        results.append(weights_digest([tmp_path / f"{number}.safetensors"]))
        tensor[place] = 1
    assert results[0] != results[1]
    tensor[place], tensor[100] = 0, 1  # between two pieces
    save_file({"a": tensor}, tmp_path / "2.safetensors")
    assert weights_digest([tmp_path / "2.safetensors"]) == results[0]


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x09\0\0\0\0\0\0\0" + b'{"a": 1 }'])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        weights_digest([tmp_path / "a.safetensors"])


def test_another_base_of_the_same_shape_is_refused_unless_forced(base_folder: Path, tmp_path: Path) -> None:
    base = read(base_folder)
    saved = adapter(base, tmp_path / "adapter")
    other = moved(base_folder, tmp_path / "other", "model.layers.1.mlp.up_proj.weight")
    settings = LoraSettings(init_from=saved)
    ways = (
        lambda: load_adapter(read(other), saved),
        lambda: merge(read(other), saved),
        lambda: init_adapter(read(other), settings, 0),
    )
    for way in ways:
        with pytest.raises(ModelError, match=r"made for a base of other weights than those of .*other\n") as caught:
            way()
        assert "adapter.force_base=true" in str(caught.value)
        assert caught.value.exit_status == 2
    load_adapter(read(other), saved, force_base=True)
    again = read(other)
    model = init_adapter(again, settings.model_copy(update={"force_base": True}), 0)
    save_adapter(model, tmp_path / "next", base=again)
    load_adapter(read(other), tmp_path / "next")
    with pytest.raises(ModelError, match="made for a base of other weights"):
        load_adapter(read(base_folder), tmp_path / "next")


def test_the_same_base_in_parts_elsewhere_and_in_another_format_is_taken(base_folder: Path, tmp_path: Path) -> None:
    base = read(base_folder)
    saved = adapter(base, tmp_path / "adapter")
    shutil.copytree(base_folder, tmp_path / "parts")
    divide(tmp_path / "parts")
    assert (tmp_path / "parts" / INDEX).exists()
    load_adapter(read(tmp_path / "parts"), saved)
    load_adapter(read(base_folder, "bfloat16"), saved)
    with safe_open(saved / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", BASE_DIGEST: weights_digest([base_folder / WEIGHTS])}
    assert base_digest(adapter(read(base_folder), tmp_path / "foreign", ours=False)) is None


def test_through_the_command_line(base_folder: Path, tmp_path: Path) -> None:
    base = read(base_folder)
    saved = adapter(base, tmp_path / "adapter")
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base_folder)
    other = moved(base_folder, tmp_path / "other", "model.embed_tokens.weight")
    words = ("generate", "--model", saved, "--prompt", "1", "task.max_new_tokens=2")
    assert "does not record" not in call(*words).stderr
    output = call(*words, "--base", other, status=2).stderr
    assert f"{saved}: was made for a base of other weights than those of {other}" in output
    assert "Traceback" not in output
    call(*words, "--base", other, "adapter.force_base=true")
    (tmp_path / "run.yaml").write_text(RECIPE.format(base=other))
    run = ("prepare", tmp_path / "run.yaml", f"runs={tmp_path / 'runs'}", f"adapter.init_from={saved}")
    assert "was made for a base of other weights" in call(*run, status=2).stderr
    foreign = adapter(read(base_folder), tmp_path / "foreign", ours=False)
    output = call("generate", "--model", foreign, "--prompt", "1", "task.max_new_tokens=2", "--base", other).stderr
    assert f"{foreign} does not record which weights it was trained on" in output
