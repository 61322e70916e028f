"""Every foreign layout computes after its conversion what a plain reference of it computes from the foreign file."""

from __future__ import annotations

import json
import struct
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import foreign_models as foreign
import pytest
import torch
from safetensors.torch import save_file

from lotune.data.tokenizer_training import train_tokenizer
from lotune.errors import ModelError
from lotune.model.convert import writing
from lotune.model.convert.internlm import read_internlm
from lotune.model.convert.layouts import LAYOUTS, convert
from lotune.model.convert.llama2c import read_llama2c
from lotune.model.convert.tokenizer_files import read_tokenizer
from lotune.model.loading import load_model
from lotune.model.settings import BaseSettings


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer.json of 320 tokens at most that the random models take."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["one two three", "一二三"] * 20, 320, folder)
    return folder / "tokenizer.json"


IDS = [3, 17, 250, 9, 9, 101, 5, 64]


def make(name: str, folder: Path) -> tuple[Path, foreign.Logits]:
    """Write the random model of that name, and return its source with its reference."""
    kind, *options = name.split("-")
    if kind == "llama2c":
        version, shared = int(options[0][1]), options[1] == "shared"
        weights = foreign.llama2c_weights(shared)
        foreign.write_llama2c(folder / "model.bin", weights, version, shared)
        return folder / "model.bin", foreign.llama2c_logits(weights)
    if kind == "nanogpt":
        weights = foreign.nanogpt_weights(options[0] == "bias")
        prefix = "_orig_mod." if options[0] == "bias" else ""
        foreign.write_nanogpt(folder / "ckpt.pt", weights, options[0] == "bias", prefix)
        return folder / "ckpt.pt", foreign.nanogpt_logits(weights)
    if kind == "meta":
        weights = foreign.llama2c_weights(False)
        foreign.write_meta(folder / "source", weights, int(options[0]), int(options[1]))
        return folder / "source", foreign.llama2c_logits(weights)
    config = foreign.INTERNLM1 if kind == "internlm1" else foreign.INTERNLM2
    weights = foreign.internlm_weights(config)
    foreign.write_internlm(folder / "source", config, weights, options[0])
    return folder / "source", foreign.internlm_logits(config, weights)


NAMES = (
    *("llama2c-v0-shared", "llama2c-v0-separate", "llama2c-v1-shared", "llama2c-v1-separate"),
    *("nanogpt-bias", "nanogpt-plain", "internlm1-bin", "internlm1-safetensors", "internlm2-bin"),
    *("internlm2-safetensors", "meta-1-0", "meta-2-0", "meta-2-1"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_computes_what_the_foreign_one_computes(name: str, tmp_path: Path, tokenizer: Path) -> None:
    source, reference = make(name, tmp_path)
    convert(source, tmp_path / "target", tokenizer=tokenizer)
    model = load_model(BaseSettings(model=str(tmp_path / "target"), dtype="float32"), "cpu").model
    for ids in (IDS, IDS * 5):  # the second is longer than InternLM's context, where its rotary base grows
        computed = logits_of(model, ids)
        assert torch.allclose(computed, reference(ids), atol=1e-5, rtol=1e-5), (computed - reference(ids)).abs().max()
    generated = model.generate(
        torch.tensor([IDS]),
        attention_mask=torch.ones(1, len(IDS)),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generated[0, len(IDS) :].tolist() == foreign.greedy(reference, IDS, 12)


@torch.no_grad()
def logits_of(model: Any, ids: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits


def test_layouts_are_recognised_by_content(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        source, _ = make(name, tmp_path / name)
        recognised = [layout.name for layout in LAYOUTS.values() if layout.recognise(source)]
        assert recognised == [name.partition("-")[0].rstrip("12")], name
        renamed = source.with_name("renamed.pt" if "nanogpt" in name else "renamed")
        source.rename(renamed)
        assert LAYOUTS[recognised[0]].recognise(renamed)


def test_the_weights_are_written_in_parts_of_bounded_size(tmp_path: Path, tokenizer: Path) -> None:
    source, reference = make("internlm2-bin", tmp_path)
    written = writing.write_model(
        read_internlm(source), read_tokenizer(tokenizer)[0], tmp_path / "target", "source", shard_bytes=20_000
    )
    files = sorted((tmp_path / "target").glob("*.safetensors"))
    assert written.files == len(files) > 3
    largest = 320 * 32 * 4
    assert all(file.stat().st_size < largest + 5_000 for file in files)
    index = json.loads((tmp_path / "target" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    model = load_model(BaseSettings(model=str(tmp_path / "target"), dtype="float32"), "cpu").model
    assert index["metadata"]["total_size"] == 4 * written.parameters == 4 * model.num_parameters()
    assert torch.allclose(logits_of(model, IDS), reference(IDS), atol=1e-5, rtol=1e-5)


def test_at_most_one_part_is_in_memory(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = make("llama2c-v1-separate", tmp_path)
    parts: list[list[weakref.ref[torch.Tensor]]] = []

    def save(tensors: dict[str, torch.Tensor], *rest: Any, **options: Any) -> None:
        assert not [one for part in parts for one in part if one() is not None]
        assert len(tensors) == 1 or sum(one.numel() * 4 for one in tensors.values()) <= 8_000
        parts.append([weakref.ref(one) for one in tensors.values()])
        save_file(tensors, *rest, **options)

    monkeypatch.setattr(writing, "save_file", save)
    model = read_llama2c(source)
    written = writing.write_model(model, read_tokenizer(tokenizer)[0], tmp_path / "target", "source", shard_bytes=8_000)
    assert written.files == len(parts) > 3
    assert sum(map(len, parts)) == len(model.tensors)


def damaged_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:12] = struct.pack("<i", 15)  # a width that its heads do not divide
    path.write_bytes(bytes(content))


def another_version(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<i", 2)
    path.write_bytes(bytes(content))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def not_finite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", float("nan")))


def enormous(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16:20] = struct.pack("<i", 2**31 - 1)  # layers
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (damaged_header, "its header says"),
        (another_version, "is of version 2"),
        (longer, "bytes"),
        (shorter, "bytes"),
        (not_finite, "not finite"),
        (enormous, "bytes"),
    ],
)
def test_damaged_llama2c_files_are_refused(
    damage: Callable[[Path], None], found: str, tmp_path: Path, tokenizer: Path
) -> None:
    source, _ = make("llama2c-v1-separate", tmp_path)
    damage(source)
    refused(source, tmp_path, tokenizer, found)


class Hostile:
    """Runs a command when a pickle of it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("name", ["ckpt.pt", "pytorch_model.bin"])
def test_a_pickle_that_runs_code_is_refused(name: str, tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "source").mkdir()
    content = {"model": {"a": torch.zeros(2), "b": Hostile(tmp_path / "ran")}, "model_args": {}}
    torch.save(content if name == "ckpt.pt" else content["model"], tmp_path / "source" / name)
    (tmp_path / "source" / "config.json").write_text(json.dumps(foreign.INTERNLM1))
    source = tmp_path / "source" / name if name == "ckpt.pt" else tmp_path / "source"
    refused(source, tmp_path, tokenizer, "would run code when opened")
    assert not (tmp_path / "ran").exists()


def changed(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    """A source of that name whose weights or settings are changed before it is written."""

    def write(folder: Path) -> Path:
        if name == "nanogpt":
            weights = foreign.nanogpt_weights(True)
            foreign.write_nanogpt(folder / "ckpt.pt", weights, True)
            content = torch.load(folder / "ckpt.pt", weights_only=True)
            change(content)
            torch.save(content, folder / "ckpt.pt")
            return folder / "ckpt.pt"
        config = dict(foreign.INTERNLM1 if name == "internlm1" else foreign.INTERNLM2)
        content = {"config": config, "weights": foreign.internlm_weights(config)}
        change(content)
        foreign.write_internlm(folder / "source", content["config"], content["weights"], "bin")
        return folder / "source"

    return write


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


WQKV = "model.layers.0.attention.wqkv.weight"


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("nanogpt", drop("model", "transformer.h.1.mlp.c_fc.weight"), "lacks"),
        ("nanogpt", put(torch.zeros(3), "model", "transformer.h.9.x.weight"), "does not have"),
        ("nanogpt", put(torch.zeros(3, 3), "model", "transformer.wpe.weight"), "has the shape (3, 3)"),
        ("nanogpt", put([1, 2], "model", "transformer.wpe.weight"), "is no plain tensor"),
        ("nanogpt", put(torch.zeros(1).expand(10**9), "model", "transformer.wpe.weight"), "is no plain tensor"),
        ("nanogpt", put(10**9, "model_args", "n_layer"), "names 1000000000 layers"),
        ("nanogpt", put("4", "model_args", "n_head"), "model_args.n_head is '4'"),
        ("nanogpt", put(True, "model_args", "use_rmsnorm"), "was trained with use_rmsnorm"),
        ("nanogpt", drop("model_args"), "has no model and model_args"),
        ("internlm2", drop("weights", WQKV), "lacks 3 tensors"),
        ("internlm2", put(torch.zeros(7, 32), "weights", WQKV), "has 7 rows"),
        ("internlm2", put(torch.zeros(64, 32, dtype=torch.int8), "weights", WQKV), "as integers"),
        ("internlm2", put({"type": "yarn", "factor": 4.0}, "config", "rope_scaling"), "scales positions by 'yarn'"),
        ("internlm2", put(["InternLM2ForRewardModel"], "config", "architectures"), "InternLM2ForRewardModel"),
        ("internlm1", put(10**9, "config", "num_hidden_layers"), "names 1000000000 layers"),
        ("internlm1", put(-1, "config", "hidden_size"), "hidden_size is -1"),
        ("internlm1", put("dynamic", "config", "rotary"), "settings are those of no model"),
        ("internlm2", put({"type": "linear", "factor": "x"}, "config", "rope_scaling"), "are those of no model"),
        ("internlm2", put(7, "config", "num_key_value_heads"), "rows"),
        ("internlm1", put(torch.tensor([float("inf")] * 32), "weights", "model.norm.weight"), "not finite"),
    ],
)  # fmt: skip
def test_faulty_sources_are_refused(
    name: str, change: Callable[[dict[str, Any]], None], found: str, tmp_path: Path, tokenizer: Path
) -> None:
    source = changed(name, change)(tmp_path)
    refused(source, tmp_path, tokenizer, found, name.rstrip("12"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"use_scaled_rope": True}, "scales its positions"),
        ({"n_heads": 0}, "n_heads is 0"),
        ({"n_layers": 10**9}, "names 1000000000 layers"),
        ({"dim": 24}, "has the shape"),
        ({"rope_theta": "high"}, "settings are those of no model"),
        ({"n_kv_heads": [2]}, "settings are those of no model"),
    ],
)
def test_faulty_parameters_of_meta_are_refused(
    change: dict[str, Any], found: str, tmp_path: Path, tokenizer: Path
) -> None:
    source, _ = make("meta-1-0", tmp_path)
    params = json.loads((source / "params.json").read_text())
    (source / "params.json").write_text(json.dumps(params | change))
    refused(source, tmp_path, tokenizer, found)


def test_a_missing_part_of_meta_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    source, _ = make("meta-2-0", tmp_path)
    (source / "consolidated.00.pth").unlink()
    refused(source, tmp_path, tokenizer, "has the shape")


@pytest.mark.parametrize("target", ["../outside.bin", "/etc/passwd", "model.pt", "sub/part.bin"])
def test_an_index_that_names_files_elsewhere_is_refused(target: str, tmp_path: Path, tokenizer: Path) -> None:
    source, _ = make("internlm1-bin", tmp_path)
    torch.save({}, tmp_path / "outside.bin")
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": target}}))
    refused(source, tmp_path, tokenizer, f"names '{target}'")


@pytest.mark.parametrize("file", ["pytorch_model-00002-of-00002.bin", "config.json", "pytorch_model.bin.index.json"])
def test_truncated_files_are_refused(file: str, tmp_path: Path, tokenizer: Path) -> None:
    source, _ = make("internlm1-bin", tmp_path)
    content = (source / file).read_bytes()
    (source / file).write_bytes(content[: len(content) // 2])
    refused(source, tmp_path, tokenizer, "damaged" if file.endswith(".bin") else "cannot be read")


def test_truncated_safetensors_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    source, _ = make("internlm2-safetensors", tmp_path)
    file = source / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(source, tmp_path, tokenizer, "is damaged")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    source, _ = make("nanogpt-bias", tmp_path)
    letters = "abcdefghijklmnop"
    words = [a + b + c for a in letters for b in letters for c in letters]
    train_tokenizer(words * 2, 900, tmp_path / "other")
    refused(source, tmp_path, tmp_path / "other", "its embedding 320 rows")


def test_a_source_without_tokenizer_is_refused(tmp_path: Path) -> None:
    source, _ = make("nanogpt-bias", tmp_path)
    with pytest.raises(ModelError, match=r"(?s)has no tokeniser.*--tokenizer"):
        convert(source, tmp_path / "target")


def refused(source: Path, folder: Path, tokenizer: Path, found: str, layout: str | None = None) -> None:
    """Assert that a source is refused with its place, and that nothing is left behind."""
    before = sorted(folder.iterdir())
    with pytest.raises(ModelError) as caught:
        convert(source, folder / "target", layout=layout, tokenizer=tokenizer)
    assert found in str(caught.value)
    assert caught.value.expected
    assert str(caught.value).count("\n") <= 2
    assert sorted(folder.iterdir()) == before
