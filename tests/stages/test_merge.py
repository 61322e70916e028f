"""`lotune merge`: one command from an adapter to a complete model, which is there only if it passes the check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call, save_template
from tiny_models import with_random_adapter

from lotune.data.templates import TEMPLATES, load_template
from lotune.model import checkpoints
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import save_adapter
from lotune.model.loading import load_model
from lotune.model.methods.registry import adapter_settings
from lotune.model.settings import BaseSettings

IDS = [[5, 9, 40, 12, 7]]


@pytest.fixture
def adapter(small_base: Path, tmp_path: Path) -> Path:
    """A folder with a random adapter of the small base."""
    return saved(small_base, tmp_path / "adapter")


def saved(base_folder: Path, folder: Path, method: str = "lora", **settings: Any) -> Path:
    base = load_model(BaseSettings(model=str(base_folder), dtype="float32"), "cpu")
    model = add_adapter(base.model, adapter_settings(method, **settings), 0, base.tokenizer)
    save_adapter(with_random_adapter(model, 0.05), folder, base=base)
    return folder


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    """Logits as transformers and PEFT themselves compute them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = model if adapter is None else PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=torch.tensor(IDS)).logits
    return result


OPTIONS = ("device=cpu", "base.dtype=float32")


def test_the_merged_model_is_the_adapted_one(adapter: Path, small_base: Path, tmp_path: Path) -> None:
    save_template(adapter, TEMPLATES["internlm"])
    out = tmp_path / "merged"
    printed = call("merge", adapter, out, *OPTIONS).stdout
    assert f"merged: {out} (float32)" in printed
    assert "check: passed on 32 rows: logits differ by" in printed
    assert torch.allclose(logits(out), logits(small_base, adapter), atol=1e-5)
    assert (logits(out) - logits(small_base)).abs().max() > 1e-2
    assert load_template(out) == TEMPLATES["internlm"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


def test_the_result_as_json(adapter: Path, small_base: Path, tmp_path: Path) -> None:
    result = json.loads(call("merge", adapter, tmp_path / "m", "device=cpu", "base.dtype=bfloat16", "--json").stdout)
    assert (result["base"], result["out"]) == (str(small_base), str(tmp_path / "m"))
    check = result["check"]
    assert (check["rows"], check["saved_dtype"], check["passed"], check["judged"]) == (32, "bfloat16", True, 0)
    assert check["max_logit_difference"] < 1e-4


def test_another_place_of_the_base(adapter: Path, small_base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(small_base, moved)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(small_base), str(tmp_path / "gone")))
    error = call("merge", adapter, tmp_path / "merged", *OPTIONS, status=2).stderr
    assert "its base cannot be loaded" in error
    assert "name it with --base" in error
    call("merge", adapter, tmp_path / "merged", "--base", moved, *OPTIONS)
    assert torch.allclose(logits(tmp_path / "merged"), logits(small_base, adapter), atol=1e-5)


def test_a_base_of_other_weights_is_refused_unless_forced(adapter: Path, small_base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = tmp_path / "other"
    shutil.copytree(small_base, other)
    model = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    model.save_pretrained(other)
    error = call("merge", adapter, tmp_path / "merged", "--base", other, *OPTIONS, status=2).stderr
    assert "was made for a base of other weights" in error
    assert not (tmp_path / "merged").exists()
    call("merge", adapter, tmp_path / "merged", "--base", other, *OPTIONS, "adapter.force_base=true")
    assert torch.allclose(logits(tmp_path / "merged"), logits(other, adapter), atol=1e-5)


@pytest.mark.parametrize("layer", ["q_proj", "v_proj"])
def test_a_failed_check_leaves_nothing(
    layer: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = checkpoints.merge

    def broken(*values: Any, **options: Any) -> Any:
        merged: Any = merge(*values, **options)
        getattr(merged.model.layers[1].self_attn, layer).weight.data *= 1.1
        return merged

    monkeypatch.setattr(checkpoints, "merge", broken)
    error = call("merge", adapter, tmp_path / "merged", *OPTIONS, status=1).stderr
    assert "merged and adapted logits differ" in error
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_cannot_be_merged_is_refused(adapter: Path, small_base: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "already exists" in call("merge", adapter, tmp_path / "full", *OPTIONS, status=2).stderr
    assert "is an input" in call("merge", adapter, adapter / "merged", *OPTIONS, status=2).stderr
    assert "is no adapter" in call("merge", small_base, tmp_path / "merged", status=2).stderr
    virtual = saved(small_base, tmp_path / "virtual", "prompt_tuning", num_virtual_tokens=2)
    assert "cannot be merged" in call("merge", virtual, tmp_path / "merged", *OPTIONS, status=2).stderr
    assert not (tmp_path / "merged").exists()


def test_an_empty_folder_is_filled(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    call("merge", adapter, tmp_path / "merged", *OPTIONS)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
