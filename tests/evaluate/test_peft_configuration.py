"""The parameters that follow from PEFT's configuration, compared with PEFT's own adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lotune.errors import ModelError
from lotune.evaluate.adapter_tensors import measure_adapter
from lotune.evaluate.peft_configuration import PeftConfiguration, peft_layout, read_peft_configuration
from lotune.model.catalogue import CATALOGUE

OPTIONS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.(q|up)_proj"},
    {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"q_proj": 3, r"1\.self_attn\.k_proj": 5}},
    {"target_modules": ["down_proj"], "layers_to_transform": [1]},
    {"target_modules": "all-linear", "exclude_modules": ["q_proj", "mlp.up_proj"]},
    {"target_modules": ["o_proj"], "use_dora": True},
    {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
]


@pytest.mark.oracle
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options))
def test_prediction_and_measurement_are_what_peft_trains(
    options: dict[str, Any], tiny_llama: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from lotune.model.methods.targets import shape_of_model

    shape = shape_of_model(tiny_llama)
    model = get_peft_model(tiny_llama, LoraConfig(r=4, task_type="CAUSAL_LM", **options))
    model.save_pretrained(str(tmp_path))
    trained, _ = model.get_nb_trainable_parameters()
    layout, reason = peft_layout(read_peft_configuration(tmp_path / "adapter_config.json"), shape)
    assert (reason, layout is not None) == ("", True)
    assert layout is not None
    measured, _, _ = measure_adapter(tmp_path)
    assert layout.count == measured.count == trained
    assert dict(layout.ranks) == dict(measured.ranks)


def test_prompt_tuning() -> None:
    config = PeftConfiguration(peft_type="PROMPT_TUNING", num_virtual_tokens=20)
    layout, _ = peft_layout(config, CATALOGUE["gpt2"].shape)
    assert layout is not None
    assert layout.count == 20 * 768


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "parameters of ia3"),
        ({"bias": "all"}, "parameters of bias"),
        ({"target_parameters": ["mlp.experts"]}, "parameters of target_parameters"),
        ({"target_modules": None}, "names no target_modules"),
        ({"modules_to_save": ["score"]}, "score in modules_to_save"),
    ],
)
def test_what_is_not_predicted_is_said(changes: dict[str, Any], reason: str) -> None:
    config = PeftConfiguration.model_validate({"peft_type": "LORA", "target_modules": ["q_proj"]} | changes)
    layout, said = peft_layout(config, CATALOGUE["llama-3-8b"].shape)
    assert layout is None
    assert reason in said


@pytest.mark.parametrize(
    "content",
    ["[]", "{", "{}", '{"peft_type": "LORA", "r": -1}', '{"peft_type": "LORA", "rank_pattern": ["a"]}',
     '{"peft_type": "LORA", "layers_to_transform": {"a": 1}}'],
)  # fmt: skip
def test_damaged_configurations(content: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError):
        read_peft_configuration(tmp_path / "adapter_config.json")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank_pattern": {"(": 3}}, "is not a pattern"),
        ({"exclude_modules": "["}, "is not a pattern"),
        ({"target_modules": "(.|..|...)*[!?]"}, "takes more than"),
    ],
)
def test_patterns_that_cannot_be_read_or_take_for_ever(setting: dict[str, Any], message: str) -> None:
    config = PeftConfiguration.model_validate({"peft_type": "LORA", "target_modules": ["q_proj"]} | setting)
    with pytest.raises(ModelError, match=message):
        peft_layout(config, CATALOGUE["llama-3-8b"].shape)
