"""A PEFT method other than the default one, through the command line: from a recipe to a scorecard and beyond."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from command_line import RECIPE, call
from safetensors.torch import load_file

ADAPTER = "adapter: {method: prompt_tuning, num_virtual_tokens: 4, init_text: a sum}"


@pytest.fixture
def recipe(small_base: Path, tmp_path: Path) -> Path:
    text = RECIPE.format(base=small_base).replace("adapter: {rank: 2}", ADAPTER)
    (tmp_path / "own.yaml").write_text(text + f"runs: {tmp_path}\n")
    return tmp_path / "own.yaml"


@pytest.mark.slow
def test_prompt_tuning_from_recipe_to_answers(recipe: Path, tmp_path: Path) -> None:
    output = call("run", recipe).stderr
    assert re.search(r"\b128 of [\d,]+ parameters are trained", output)
    assert "estimate: 5 steps" in output
    card = json.loads((tmp_path / "own" / "scorecard.json").read_text())
    assert card["parameters"]["trainable"] == 4 * 32
    assert [check["name"] for check in card["checks"] if not check["passed"]] == []
    assert any("prompt_tuning adapters cannot be merged" in note for note in card["notes"])
    folder = tmp_path / "own" / "checkpoints" / card["chosen_checkpoint"]
    assert sorted(path.name for path in folder.iterdir()) == ["adapter"]
    assert load_file(folder / "adapter" / "adapter_model.safetensors")["prompt_embeddings"].shape == (4, 32)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"problem": "1 + 1", "solution": "2"}\n{"problem": "2 + 2", "solution": "4"}\n')
    words = ("generate", "--model", folder / "adapter", "--task", "arithmetic", "--data", prompts)
    call(*words, "--out", tmp_path / "answers.jsonl", "task.max_new_tokens=4")
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    call("report", tmp_path / "own")
    assert "128" in (tmp_path / "own" / "report.md").read_text()
    further = ("name=further", f"adapter.init_from={folder / 'adapter'}", "adapter.init_text=null")
    output = call("tune", recipe, *further, "adapter.num_virtual_tokens=5", status=2).stderr
    assert "has num_virtual_tokens 4, the recipe adapter.num_virtual_tokens=5" in output
    call("tune", recipe, *further)
    [first, *_] = sorted((tmp_path / "further" / "checkpoints").glob("*/adapter/adapter_model.safetensors"))
    assert not torch.equal(*(load_file(file)["prompt_embeddings"] for file in (first, folder / "adapter" / first.name)))


@pytest.mark.slow
def test_unsupported_settings_of_a_method_are_refused_before_any_work(recipe: Path, tmp_path: Path) -> None:
    output = call("run", recipe, "checkpoints.merged=all", status=2).stderr
    assert "checkpoints.merged: is all, and prompt_tuning adapters cannot be merged" in output
    output = call("run", recipe, "adapter.rank=3", status=2).stderr
    assert "adapter.rank is not a setting of prompt_tuning, which has budget, format, force_base, init_from," in output
    assert "expected one of lora, prompt_tuning" in call("run", recipe, "adapter.method=promt_tuning", status=2).stderr
    output = call("run", recipe, "adapter.num_virtual_tokens=1023", status=2).stderr
    assert "1023 virtual tokens fill the context of 1024 tokens" in output
    assert not (tmp_path / "own" / "data").exists()


def test_full_tuning_is_refused_where_it_cannot_be(small_base: Path, tmp_path: Path) -> None:
    text = RECIPE.format(base=small_base).replace("adapter: {rank: 2}", "adapter: {method: full}")
    (tmp_path / "full.yaml").write_text(text + f"runs: {tmp_path}\n")
    for setting, fault in {
        "tune.quantization=8bit": "weights that are trained cannot be quantised",
        "retention.strength=0.5": "full adapters have no strength that can be lowered",
        "adapter.budget=0.1": "raise the budget, or adapter.method=lora",
    }.items():
        assert fault in call("run", tmp_path / "full.yaml", setting, status=2).stderr
    assert not (tmp_path / "full" / "data").exists()


@pytest.mark.slow
def test_full_tuning_holds_to_its_base(small_base: Path, tmp_path: Path) -> None:
    text = RECIPE.format(base=small_base).replace("adapter: {rank: 2}", "adapter: {method: full}")
    (tmp_path / "full.yaml").write_text(text + f"runs: {tmp_path}\n")
    held = ("retention.replay.rows=8", "retention.divergence=0.5", "tune.steps=4", "checkpoints.count=2")
    output = call("run", tmp_path / "full.yaml", *held).stderr
    weights = load_file(small_base / "model.safetensors")
    total = sum(tensor.numel() for tensor in weights.values())
    assert f"{total:,} of {total:,} parameters are trained (100.000%)" in output
    card = json.loads((tmp_path / "full" / "scorecard.json").read_text())
    assert (card["parameters"]["trainable"], card["parameters"]["total"]) == (total, total)
    assert [check["name"] for check in card["checks"] if not check["passed"]] == []
    folder = tmp_path / "full" / "checkpoints" / card["chosen_checkpoint"]
    merged = load_file(folder / "merged" / "model.safetensors")
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert saved.keys() == merged.keys() == weights.keys()
    assert all(torch.equal(saved[name], merged[name].float()) for name in saved)
    assert any(not torch.equal(saved[name], weights[name].float()) for name in saved)
