"""`lotune convert` from the command line, and bases whose tokeniser alone is in another layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import foreign_models as foreign
import pytest
import torch
from command_line import RECIPE, call

from lotune.model.loading import load_model, load_tokenizer
from lotune.model.settings import BaseSettings


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A llama2.c checkpoint with its tokeniser beside it."""
    (tmp_path / "source").mkdir()
    foreign.write_llama2c(tmp_path / "source" / "model.bin", foreign.llama2c_weights(True), 0, True)
    foreign.write_llama2c_tokenizer(tmp_path / "source" / "tok320.bin", foreign.llama2c_tokens([(" ", -1.0)]))
    return tmp_path / "source" / "model.bin"


def test_what_was_found_and_done_is_printed(checkpoint: Path, tmp_path: Path) -> None:
    printed = call("convert", checkpoint, tmp_path / "base").stdout
    assert f"{checkpoint}: layout llama2c\n  version 0\n  the output layer shares its weights" in printed
    assert f"tokeniser: llama2.c's tokeniser, 320 tokens, from {checkpoint.with_name('tok320.bin')}" in printed
    assert "LlamaForCausalLM of 10,576 parameters in float32, 1 file of safetensors" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "source"]
    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files <= {path.name for path in (tmp_path / "base").iterdir()}


def test_the_result_as_json(checkpoint: Path, tmp_path: Path) -> None:
    result = json.loads(call("convert", checkpoint, tmp_path / "base", "--layout", "llama2c", "--json").stdout)
    assert (result["layout"], result["source"]) == ("llama2c", str(checkpoint))


def test_a_converted_model_goes_on_as_the_original_does(checkpoint: Path, tmp_path: Path) -> None:
    call("convert", checkpoint, tmp_path / "base")
    tokens = foreign.llama2c_tokens([(" ", -1.0)])
    ids = [1, *foreign.llama2c_encode(tokens, "a story")]
    continued = foreign.greedy(foreign.llama2c_logits(foreign.llama2c_weights(True)), ids, 4)
    assert 2 not in continued  # so no answer ends before
    options = ("device=cpu", "task.template=plain", "task.max_new_tokens=4")
    words = ("generate", "--model", tmp_path / "base", "--task", "instructions", "--prompt", "a story", "--json")
    answer = json.loads(call(*words, *options).stdout)
    base = load_model(BaseSettings(model=str(tmp_path / "base"), dtype="float32"), "cpu")
    assert answer["prompt"] == "a story"
    assert answer["answer"] == base.tokenizer.decode(continued)


def test_the_target_must_be_new(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "already exists" in call("convert", checkpoint, tmp_path / "full", status=2).stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert "already exists" in call("convert", checkpoint, checkpoint, status=2).stderr
    inside = checkpoint.parent / "base"
    (checkpoint.parent / "ckpt.pt").touch()
    assert "is the source" in call("convert", checkpoint.parent, inside, "--layout", "nanogpt", status=2).stderr


def test_unknown_sources_and_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of a model")
    error = call("convert", tmp_path / "notes.txt", tmp_path / "base", status=2).stderr
    assert "is of no layout that lotune knows" in error
    assert "llama2.c's .bin" in error
    assert "does not exist" in call("convert", tmp_path / "gone", tmp_path / "base", status=2).stderr
    error = call("convert", tmp_path / "notes.txt", tmp_path / "base", "--layout", "gguf", status=2).stderr
    assert "one of internlm, meta, llama2c, nanogpt, mindformers, huggingface" in error
    error = call("convert", tmp_path / "notes.txt", tmp_path / "base", "--layout", "llama2c", status=2).stderr
    assert error.count("\n") <= 3
    assert not (tmp_path / "base").exists()


def test_a_folder_with_pickled_weights_names_the_command(small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(small_base, folder)
    weights = load_model(BaseSettings(model=str(folder), dtype="float32"), "cpu").model.state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(base=f"'{folder}'"))
    error = call("run", recipe, "--dry-run", status=2).stderr
    assert f"remedy: convert it: lotune convert {folder} NEW-FOLDER" in error
    call("convert", folder, tmp_path / "base")
    converted = load_model(BaseSettings(model=str(tmp_path / "base"), dtype="float32"), "cpu").model
    assert all(torch.equal(weights[name], weight) for name, weight in converted.state_dict().items())
    assert (tmp_path / "base" / "generation_config.json").is_file()
    del weights["model.norm.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    error = call("convert", folder, tmp_path / "other", status=2).stderr
    assert "lacks 1 weights, such as model.norm.weight" in error
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("layout", ["llama2.c", "gpt2", "transformers"])
def test_a_base_loads_with_a_tokenizer_in_another_layout(layout: str, small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(small_base, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    if layout == "llama2.c":
        tokens = foreign.llama2c_tokens([(" ", -1.0), ("a", -2.0)], 400)
        foreign.write_llama2c_tokenizer(folder / "tokenizer.bin", tokens)
        config = {"eos_token": "</s>", "pad_token": "<unk>"}
        for name in ("config.json", "generation_config.json"):
            values = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**values, "eos_token_id": 2, "pad_token_id": 0}))
    else:
        names = ("encoder.json", "vocab.bpe") if layout == "gpt2" else ("vocab.json", "merges.txt")
        (folder / names[0]).write_text(json.dumps(tokenizer["model"]["vocab"]))
        (folder / names[1]).write_text("\n".join(" ".join(pair) for pair in tokenizer["model"]["merges"]) + "\n")
    if layout == "transformers":
        config["tokenizer_class"] = "GPT2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    settings = BaseSettings(model=str(folder), dtype="float32")
    loaded = load_model(settings, "cpu").tokenizer
    text = "one 计算 a"
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert loaded.decode(ids) == text
    assert load_tokenizer(settings)[0](text, add_special_tokens=False)["input_ids"] == ids
    assert loaded.eos_token == config["eos_token"]
