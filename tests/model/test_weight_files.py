"""What a model's files may name: safetensors inside the folder, and special tokens of its vocabulary."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lotune.errors import ModelError
from lotune.model.loading import load_model, load_tokenizer
from lotune.model.settings import BaseSettings
from lotune.model.token_ids import check_token_ids
from lotune.model.weight_files import weight_files, weight_files_of_hub

INDEX = "model.safetensors.index.json"


class Bomb:
    """A pickle of it writes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def load(folder: Path | str) -> Any:
    return load_model(BaseSettings(model=str(folder), dtype="float32"), "cpu").model


def divide(folder: Path, second: str = "model-2.safetensors") -> dict[str, Any]:
    """Put a base's weights into two parts, the second one under a name; the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(tensors) // 2
    parts = {"model-1.safetensors": sorted(tensors)[:half], second: sorted(tensors)[half:]}
    for file, names in parts.items():
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensors[name] for name in names}, place, metadata={"format": "pt"})
    weight_map = {name: file for file, names in parts.items() for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return index


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **values}))


def refused(folder: Path, match: str) -> None:
    """Weights and tokeniser are refused alike."""
    for work in (load, lambda one: load_tokenizer(BaseSettings(model=str(one)))):
        with pytest.raises(ModelError, match=match):
            work(folder)


def test_parts_are_loaded_from_folders_below_too(base_folder: Path, tokens: torch.Tensor) -> None:
    expected = load(base_folder)(tokens).logits
    divide(base_folder, "parts/model-2.safetensors")
    assert torch.equal(load(base_folder)(tokens).logits, expected)


def test_an_index_that_names_a_pickle_is_refused_before_it_is_opened(base_folder: Path, tmp_path: Path) -> None:
    index, mark = divide(base_folder), tmp_path / "ran"
    for name in ("model-2.bin", "evil.pt", "model-2.safetensors.bin", "MODEL-2.SAFETENSORS"):
        (base_folder / name).write_bytes(pickle.dumps(Bomb(mark)))
        first = next(iter(index["weight_map"]))
        (base_folder / INDEX).write_text(json.dumps({**index, "weight_map": {**index["weight_map"], first: name}}))
        refused(base_folder, f"{INDEX}: names '{name}', which is not a safetensors file")
    change(base_folder / INDEX, weight_map=dict.fromkeys(index["weight_map"], "model-2.bin"))
    refused(base_folder, "not a safetensors file")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.bin", "../other.safetensors", "x.bin.index.json"])
def test_a_config_that_names_other_weights_is_refused(name: str, base_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (base_folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    change(base_folder / "config.json", transformers_weights=name)
    refused(base_folder, r"config\.json: names .*(not a safetensors file|outside the folder)")
    assert not mark.exists()


def test_a_config_may_name_safetensors(base_folder: Path, tokens: torch.Tensor) -> None:
    expected = load(base_folder)(tokens).logits
    (base_folder / "model.safetensors").rename(base_folder / "mine.safetensors")
    change(base_folder / "config.json", transformers_weights="mine.safetensors")
    assert torch.equal(load(base_folder)(tokens).logits, expected)


@pytest.mark.parametrize("pickles", ["pytorch_model.bin", "adapter_model.bin", "optimizer.pt", "training_args.bin"])
def test_pickles_beside_the_weights_stay_closed(pickles: str, base_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (base_folder / pickles).write_bytes(pickle.dumps(Bomb(mark)))
    (base_folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": pickles}}))
    load(base_folder)
    (base_folder / "model.safetensors").rename(base_folder / "other.safetensors")
    refused(base_folder, r"has no model\.safetensors")
    assert not mark.exists()


@pytest.mark.parametrize("way", ["absolute", "above", "link", "folder link", "letter"])
def test_parts_outside_the_folder_are_refused(way: str, base_folder: Path, tmp_path: Path) -> None:
    index = divide(base_folder)
    outside = tmp_path / "outside" / "model-2.safetensors"
    outside.parent.mkdir()
    (base_folder / "model-2.safetensors").rename(outside)
    name = {"absolute": str(outside), "above": "../outside/model-2.safetensors", "letter": "C:\\model-2.safetensors"}
    if way == "link":
        (base_folder / "model-2.safetensors").symlink_to(outside)
    elif way == "folder link":
        (base_folder / "parts").symlink_to(outside.parent)
    file = name.get(way, "parts/model-2.safetensors" if way == "folder link" else "model-2.safetensors")
    parts = {weight: file if part == "model-2.safetensors" else part for weight, part in index["weight_map"].items()}
    change(base_folder / INDEX, weight_map=parts)
    refused(base_folder, "out of the folder" if "link" in way else "outside the folder")


def cached(base_folder: Path, hub: Path) -> Path:
    """A base in the layout of the hub's cache: a snapshot of links to blobs."""
    home = hub / "models--somebody--base"
    snapshot = home / "snapshots" / ("0" * 40)
    for folder in (snapshot, home / "blobs", home / "refs"):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    for number, file in enumerate(sorted(base_folder.iterdir())):
        file.rename(home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


def test_a_snapshot_of_the_hubs_cache_is_loaded(base_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    divide(base_folder)
    snapshot = cached(base_folder, tmp_path / "hub")
    load(snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load("somebody/base")
    assert weight_files_of_hub("somebody/base") == weight_files(snapshot, "somebody/base")
    index = json.loads((snapshot / INDEX).read_text())
    (snapshot / INDEX).write_text(json.dumps({**index, "weight_map": dict.fromkeys(index["weight_map"], "evil.bin")}))
    (snapshot / "evil.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in (snapshot, "somebody/base"):
        with pytest.raises(ModelError, match=r"names 'evil\.bin', which is not a safetensors file"):
            load(name)
    (snapshot / "adapter_config.json").write_text("{}")
    for name in (snapshot, "somebody/base"):
        with pytest.raises(ModelError, match="holds an adapter"):
            load(name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}'])
def test_a_damaged_index_is_refused(text: str, base_folder: Path) -> None:
    divide(base_folder)
    (base_folder / INDEX).write_text(text)
    refused(base_folder, INDEX)


def test_a_missing_part_is_named(base_folder: Path) -> None:
    divide(base_folder)
    (base_folder / "model-2.safetensors").unlink()
    refused(base_folder, r"has no model-2\.safetensors")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", ["zero", -2, True, 1.5, 272, 10**12, [0, "a"], {"a": 1}, [0, -3]], ids=repr)
def test_special_tokens_that_are_none_are_refused(file: str, key: str, value: Any, base_folder: Path) -> None:
    change(base_folder / file, **{key: value})
    with pytest.raises(ModelError) as caught:
        check_token_ids(base_folder, str(base_folder))
    assert str(caught.value).startswith(f"{base_folder / file}: {key}: is ")
    assert "expected: a whole number from 0 to 271" in str(caught.value)
    if value == "zero":
        refused(base_folder, key)


@given(ids=st.lists(st.integers(0, 271), max_size=3), pad=st.sampled_from([None, -1, 0, 271]))
def test_special_tokens_of_the_vocabulary_are_taken(ids: list[int], pad: int | None, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("ids")
    change(folder / "config.json", vocab_size=272, eos_token_id=ids, pad_token_id=pad, model_type="llama")
    change(folder / "generation_config.json", eos_token_id=ids[0] if ids else None)
    check_token_ids(folder, "mine")


def test_defaults_of_an_architecture_are_valid(tmp_path: Path) -> None:
    change(tmp_path / "config.json", vocab_size=300, eos_token_id=50256, bos_token_id=50256, model_type="gpt2")
    check_token_ids(tmp_path, "mine")
    change(tmp_path / "config.json", eos_token_id=50257)
    with pytest.raises(ModelError, match="eos_token_id: is 50257"):
        check_token_ids(tmp_path, "mine")
