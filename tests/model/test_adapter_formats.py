"""Adapters in the format of PEFT 0.10: its fields, nothing else, and what it cannot hold is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.errors import ModelError, SettingsError
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import check_init_adapter, save_adapter
from lotune.model.methods.lora import LoraSettings
from lotune.recipe import Recipe
from lotune.settings import read_settings

FIELDS = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r",
    "target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config",
    "megatron_core", "loftq_config", "use_dora", "layer_replication",
}  # fmt: skip
"""The annotated fields of the classes LoraConfig, PeftConfig and PeftConfigMixin in the wheel peft-0.10.0."""


def test_a_tuned_adapter_has_the_fields_of_peft_0_10(small_base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "old.yaml"
    recipe.write_text(RECIPE.format(base=f"'{small_base}'") + f"runs: '{tmp_path}'\n")
    call("tune", recipe, "adapter.format=peft-0.10", "adapter.rank=2", "checkpoints.count=1", "tune.epochs=1")
    [folder] = (tmp_path / "old" / "checkpoints").glob("*/adapter")
    written = json.loads((folder / "adapter_config.json").read_text())
    assert set(written) == FIELDS
    assert (written["peft_type"], written["r"], written["target_modules"]) == ("LORA", 2, ["q_proj", "v_proj"])
    assert (folder / "adapter_model.safetensors").is_file()  # which PEFT 0.10 looks for first


def test_the_installed_peft_reads_it(tiny_llama: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    model = add_adapter(tiny_llama, LoraSettings(rank=2), 0)
    save_adapter(model, tmp_path / "new")
    save_adapter(model, tmp_path / "old", config_format="peft-0.10")
    new, old = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("new", "old"))
    assert set(new) - FIELDS
    assert {name: new[name] for name in FIELDS} == old
    base = model.unload()
    assert PeftModel.from_pretrained(base, str(tmp_path / "old")).peft_config["default"].r == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("exclude_modules", ["lm_head"]), ("lora_bias", True), ("target_parameters", ["mlp.experts.down_proj"]),
     ("init_lora_weights", "olora"), ("trainable_token_indices", [3])],
)  # fmt: skip
def test_what_peft_0_10_cannot_hold_is_refused(name: str, value: Any, tiny_llama: Any, tmp_path: Path) -> None:
    model = add_adapter(tiny_llama, LoraSettings(rank=2), 0)
    save_adapter(model, tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    settings = LoraSettings(init_from=tmp_path / "saved", format="peft-0.10")
    with pytest.raises(ModelError) as caught:
        check_init_adapter(settings)
    assert name in caught.value.found
    assert "adapter.init_from" in caught.value.where
    assert "adapter.format" in caught.value.remedy
    check_init_adapter(settings.model_copy(update={"format": "peft"}))
    setattr(model.peft_config["default"], name, value)
    with pytest.raises(ModelError, match=name):
        save_adapter(model, tmp_path / "again", config_format="peft-0.10")
    assert not (tmp_path / "again").exists()


def test_a_method_without_the_format_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"adapter\.format.*"):
        read_settings(Recipe, None, ["adapter.method=prompt_tuning", "adapter.format=peft-0.10"])
