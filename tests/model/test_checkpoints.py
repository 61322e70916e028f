import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import with_random_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from lotune.data.templates import TEMPLATE_FILE
from lotune.errors import ModelError
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import ADAPTER_WEIGHTS, load_adapter, merge, save_adapter, save_model
from lotune.model.loading import LoadedModel, cast_parameters, load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.settings import BaseSettings


def reload(base: LoadedModel) -> LoadedModel:
    return load_model(BaseSettings(model=base.name, dtype="float32"), "cpu")


def shaken(base: LoadedModel, **settings: object) -> PeftModel:
    """The base with an adapter of random weights."""
    model: PeftModel = with_random_adapter(add_adapter(base.model, LoraSettings(**settings), seed=0), 0.3)  # type: ignore[arg-type]
    return model


@pytest.mark.oracle
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r".*layers\.1\..*w[qo]", "all-linear"])
def test_a_saved_adapter_loads_in_plain_peft(
    targets: str | list[str], base: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = shaken(base, target_modules=targets)
    expected = model(input_ids=tokens).logits
    save_adapter(model, tmp_path / "adapter", '{"name": "alpaca"}')
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        TEMPLATE_FILE,
    ]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.name), str(tmp_path / "adapter"))
    assert torch.equal(plain(input_ids=tokens).logits, expected)
    assert torch.equal(load_adapter(reload(base), tmp_path / "adapter")(input_ids=tokens).logits, expected)


def test_equal_adapters_are_equal_files(base: LoadedModel, tmp_path: Path) -> None:
    model = shaken(base)
    for number in range(8):  # safetensors writes metadata in an order of its own each time
        save_adapter(model, tmp_path / str(number), base=base)
    assert len({(tmp_path / str(number) / ADAPTER_WEIGHTS).read_bytes() for number in range(8)}) == 1
    assert load_adapter(reload(base), tmp_path / "0").peft_config.keys() == {"default"}


def test_an_adapter_names_its_base_as_it_was_given(base: LoadedModel, tmp_path: Path) -> None:
    base.model.name_or_path = "nano"
    save_adapter(shaken(base), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "nano"
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (8, 16, True)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert str(tmp_path) not in json.dumps(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_is_adapted(dtype: torch.dtype, base: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    save_adapter(shaken(base, target_modules="all-linear"), tmp_path / "adapter")
    fresh = reload(base)
    start = LoadedModel(base.name, cast_parameters(fresh.model, dtype), base.tokenizer, base.folder, dtype)
    untouched = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    merged = merge(start, tmp_path / "adapter")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in start.model.state_dict().items())
    wide = LoadedModel(
        base.name, cast_parameters(start.model, torch.float32), base.tokenizer, base.folder, torch.float32
    )
    adapted = load_adapter(wide, tmp_path / "adapter")
    torch.testing.assert_close(merged(tokens).logits, adapted(input_ids=tokens).logits, rtol=0, atol=1e-4)
    assert not torch.allclose(merged(tokens).logits, fresh.model(tokens).logits, atol=1e-2)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_folder_loads_in_transformers(
    dtype: torch.dtype, base: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    save_adapter(shaken(base), tmp_path / "adapter")
    merged = merge(reload(base), tmp_path / "adapter")
    save_model(merged, base.tokenizer, tmp_path / "merged", dtype, "{}")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", TEMPLATE_FILE}
    assert not list(tmp_path.glob(".merged*"))
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"))
    assert loaded.dtype == dtype
    assert torch.equal(
        cast_parameters(loaded, torch.float32)(tokens).logits,
        cast_parameters(cast_parameters(merged, dtype), torch.float32)(tokens).logits,
    )
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "merged"))
    assert tokenizer("a加1")["input_ids"] == base.tokenizer("a加1")["input_ids"]
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "merged").glob("*.json")]
    assert not any(str(tmp_path) in text for text in texts)
    assert load_model(BaseSettings(model=str(tmp_path / "merged"), dtype="bfloat16"), "cpu").dtype == torch.bfloat16


def test_a_model_with_its_adapter_is_not_merged(base: LoadedModel, tmp_path: Path) -> None:
    model = shaken(base)
    with pytest.raises(ModelError, match="still has its adapter"):
        save_model(model.get_base_model(), base.tokenizer, tmp_path / "merged", torch.float32)
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match="already has an adapter"):
        load_adapter(base, tmp_path / "adapter")


def test_a_crash_while_saving_leaves_the_old_folder(
    llama: LlamaForCausalLM, base: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(llama, base.tokenizer, tmp_path / "full", torch.float32)
    before = {path.name: path.read_bytes() for path in (tmp_path / "full").iterdir()}

    def fail(_: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(base.tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(llama, base.tokenizer, tmp_path / "full", torch.bfloat16)
    assert {path.name: path.read_bytes() for path in (tmp_path / "full").iterdir()} == before
    assert not list(tmp_path.glob(".full*"))
    monkeypatch.undo()
    save_model(llama, base.tokenizer, tmp_path / "full", torch.bfloat16)
    assert json.loads((tmp_path / "full" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_published_temperature_without_sampling_is_no_obstacle(
    llama: LlamaForCausalLM, base: LoadedModel, tmp_path: Path
) -> None:
    assert llama.generation_config is not None
    llama.generation_config.temperature = 0.6
    save_model(llama, base.tokenizer, tmp_path / "full", torch.float32)
    assert json.loads((tmp_path / "full" / "generation_config.json").read_text())["temperature"] == 0.6


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def break_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def break_bytes(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"broken")


def break_one(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors")


def break_shape(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: tensor[:, :-1].contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


def break_method(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (break_config, "has no adapter_config.json"),
        (break_weights, "pickles are never opened"),
        (break_bytes, "is damaged"),
        (break_one, "1 tensors do not fit"),
        (break_shape, "does not fit"),
        (break_method, "is a ia3 adapter"),
    ],
)
def test_a_damaged_adapter_is_refused(broken: object, message: str, base: LoadedModel, tmp_path: Path) -> None:
    save_adapter(shaken(base), tmp_path / "adapter")
    assert callable(broken)
    broken(tmp_path / "adapter")
    with pytest.raises(ModelError, match=message) as caught:
        load_adapter(reload(base), tmp_path / "adapter")
    assert str(caught.value).count("\n") <= 2


def test_an_adapter_with_infinite_weights_is_not_merged(base: LoadedModel, tmp_path: Path) -> None:
    model = shaken(base)
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "lora_B" in name)[0, 0] = float("inf")
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match="finite weights"):
        merge(reload(base), tmp_path / "adapter")
