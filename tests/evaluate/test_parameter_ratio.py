"""Counting what an adapter trained, from its file."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lotune.errors import ModelError, SettingsError
from lotune.evaluate.parameter_ratio import count_adapter, ratio


def save(folder: Path, shapes: dict[str, tuple[int, ...]], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: np.zeros(shape, dtype="float16") for name, shape in shapes.items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


LORA = {
    "base_model.model.layers.0.q_proj.lora_A.weight": (8, 64),
    "base_model.model.layers.0.q_proj.lora_B.weight": (32, 8),
}
HEAD = {"base_model.model.lm_head.weight": (300, 64)}


def test_lora_is_counted_by_its_shapes(tmp_path: Path) -> None:
    count = count_adapter(save(tmp_path, LORA))
    assert count.trainable == 8 * 64 + 32 * 8
    assert [tensor.shape for tensor in count.tensors] == [(8, 64), (32, 8)]
    assert count.tensors[0].dtype == "F16"


def test_an_untrained_copy_is_listed_not_counted(tmp_path: Path) -> None:
    copied = count_adapter(save(tmp_path, LORA | HEAD, modules_to_save=None))
    assert copied.trainable == 768
    assert [tensor.name for tensor in copied.tensors if not tensor.counted] == list(HEAD)
    trained = count_adapter(save(tmp_path, LORA | HEAD, modules_to_save=["model.lm_head"]))
    assert trained.trainable == 768 + 300 * 64


def test_files_that_are_not_adapters(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter_model"):
        count_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be read"):
        count_adapter(tmp_path)
    with pytest.raises(ModelError, match="no trained tensor"):
        count_adapter(save(tmp_path, HEAD))
    save(tmp_path, LORA)
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(ModelError, match="is damaged"):
        count_adapter(tmp_path)


@pytest.mark.oracle
def test_the_file_that_peft_writes(tmp_path: Path, tiny_llama: object) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama, config)
    model.save_pretrained(str(tmp_path))
    trainable, _ = model.get_nb_trainable_parameters()
    count = count_adapter(tmp_path)
    assert count.trainable == trainable == 2 * (4 * (32 + 32) + 4 * (32 + 16))


def test_ratio_by_convention() -> None:
    assert ratio(3_407_872, 8_030_261_248, "llama3-8b") == 3_407_872 / 8_030_000_000
    assert ratio(3_407_872, 8_030_261_248) == 3_407_872 / 8_030_261_248
    assert ratio(4_194_304, 1, "internlm-7b") == 4_194_304 / 7_321_000_000
    with pytest.raises(SettingsError, match="llama3-8b"):
        ratio(1, 2, "llama")
    with pytest.raises(SettingsError):
        ratio(1, 0)
