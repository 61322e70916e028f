"""Training that begins with a saved adapter: of ours or of PEFT's own, with what it is and no other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lotune.errors import ModelError
from lotune.evaluate.parameter_ratio import count_adapter
from lotune.model.adapters import trainable_count
from lotune.model.checkpoints import check_init_adapter, init_adapter, load_adapter, merge, save_adapter
from lotune.model.loading import LoadedModel, load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.settings import BaseSettings


def reload(base: LoadedModel) -> LoadedModel:
    return load_model(BaseSettings(model=str(base.folder), dtype="float32"), "cpu")


def shaken(model: Any) -> Any:
    """A model whose adapter changes something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).reshape(parameter.shape))
    return model


@pytest.fixture
def saved(base: LoadedModel, tmp_path: Path) -> Path:
    """The folder of an adapter of rank 3 and alpha 5 on the value projections."""
    settings = LoraSettings(rank=3, alpha=5, target_modules=["v_proj"])
    save_adapter(shaken(init_adapter(reload(base), settings, seed=0)), tmp_path / "saved")
    return tmp_path / "saved"


def test_training_starts_from_the_saved_adapter(
    base: LoadedModel, saved: Path, tokens: torch.Tensor, tmp_path: Path
) -> None:
    expected = load_adapter(reload(base), saved)(input_ids=tokens).logits
    model = init_adapter(reload(base), LoraSettings(init_from=saved), seed=7)
    assert torch.equal(model(input_ids=tokens).logits, expected)
    assert trainable_count(model) == count_adapter(saved).trainable
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    save_adapter(model, tmp_path / "next")
    model.eval()
    again = load_adapter(reload(base), tmp_path / "next")(input_ids=tokens).logits
    assert torch.equal(again, model(input_ids=tokens).logits)
    assert not torch.equal(again, expected)
    torch.testing.assert_close(merge(reload(base), tmp_path / "next")(tokens).logits, again, rtol=0, atol=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_saved_by_peft_continues_in_float32(
    base: LoadedModel, dtype: torch.dtype, tokens: torch.Tensor, tmp_path: Path
) -> None:
    fresh: Any = reload(base).model
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"], lora_dropout=0.5, use_rslora=True)
    expected = shaken(get_peft_model(fresh, config))
    for parameter in [parameter for parameter in expected.parameters() if parameter.requires_grad]:
        parameter.data = parameter.data.to(dtype)
    expected.save_pretrained(str(tmp_path / "theirs"))
    model = init_adapter(reload(base), LoraSettings(init_from=tmp_path / "theirs"), seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.peft_config["default"].lora_dropout == 0.0
    assert model.peft_config["default"].base_model_name_or_path == base.name
    actual = model(input_ids=tokens).logits
    torch.testing.assert_close(actual, expected.float().eval()(input_ids=tokens).logits, rtol=0, atol=1e-4)


def test_a_recipe_that_contradicts_the_adapter_is_refused(base: LoadedModel, saved: Path) -> None:
    agreed = LoraSettings(init_from=saved, rank=3, alpha=5.0, target_modules=".*wv", dropout=0.1)
    model = init_adapter(reload(base), agreed, seed=0)
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_dropout) == (3, 0.1)
    with pytest.raises(ModelError, match=r"has rank 3, the recipe adapter.rank=8\n.*\nremedy: leave adapter.rank out"):
        check_init_adapter(LoraSettings(init_from=saved, rank=8))
    with pytest.raises(ModelError, match=r"has alpha 5, the recipe adapter.alpha=16"):
        check_init_adapter(LoraSettings(init_from=saved, alpha=16))
    with pytest.raises(ModelError, match=r"adapts 2 modules \(v_proj\), the recipe 4 modules \(q_proj, v_proj\)"):
        init_adapter(reload(base), LoraSettings(init_from=saved, target_modules=["q_proj", "v_proj"]), seed=0)


def test_other_folders_are_refused_as_adapters(base: LoadedModel, saved: Path, tmp_path: Path) -> None:
    check_init_adapter(LoraSettings())
    for start in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match=r"has no adapter_config.json"):
            check_init_adapter(LoraSettings(init_from=start))
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "bias": "all"}))
    with pytest.raises(ModelError, match="trains biases of the base, too"):
        check_init_adapter(LoraSettings(init_from=saved))
    (saved / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file(
        {name: tensor[:, :-1].contiguous() for name, tensor in tensors.items()}, saved / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="does not fit"):
        init_adapter(reload(base), LoraSettings(init_from=saved), seed=0)
