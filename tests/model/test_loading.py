import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lotune.errors import ModelError, SettingsError
from lotune.model import loading
from lotune.model.loading import (
    DEFAULT_CONTEXT_LENGTH,
    LoadedModel,
    context_length,
    count_parameters,
    declared_context_length,
    float32_copy,
    load_model,
    resolve_device,
    resolve_dtype,
)
from lotune.model.new_models import new_llama, new_model_from_config
from lotune.model.settings import BaseSettings
from tests.generate.test_engine import EAGER, made

LLAMA_3_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500_000.0,
}


def load(folder: Path | str) -> LoadedModel:
    return load_model(BaseSettings(model=str(folder)), "cpu")


def test_a_folder_is_loaded_frozen_and_quietly(
    base_folder: Path, llama: LlamaForCausalLM, tokens: torch.Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    base = load_model(BaseSettings(model=str(base_folder), dtype="float32"), "auto")
    assert "Loading" not in "".join(capfd.readouterr())
    assert (base.folder, base.dtype, base.name) == (base_folder, torch.float32, str(base_folder))
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.model.config._attn_implementation == "sdpa"
    device = next(base.model.parameters()).device
    torch.testing.assert_close(base.model(tokens.to(device)).logits.cpu(), llama(tokens).logits, rtol=0, atol=1e-4)
    assert base.tokenizer.decode(base.tokenizer("12 加 3")["input_ids"]) == "12 加 3"
    assert context_length(base.model) == 128


def test_bfloat16_is_loaded_on_request_and_float32_copies_are_exact(base_folder: Path) -> None:
    base = load_model(BaseSettings(model=str(base_folder), dtype="bfloat16"), "cpu")
    wide = float32_copy(base)
    pairs = zip(base.model.parameters(), wide.model.parameters(), strict=True)
    assert all(a.dtype == torch.bfloat16 and torch.equal(a.float(), b) for a, b in pairs)
    assert wide.dtype == torch.float32


def test_gpt_2_s_activation_is_one_kernel_and_the_same(base_folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3)).eval()
    plain.save_pretrained(base_folder)
    ids = torch.arange(40)[None]
    with torch.profiler.profile() as profile:
        result = load_model(BaseSettings(model=str(base_folder), dtype="float32"), "cpu").model(ids).logits
    operations = {event.key for event in profile.key_averages()}
    assert "aten::gelu" in operations
    assert "aten::tanh" not in operations
    torch.testing.assert_close(result, plain(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", EAGER, ids=lambda shape: shape.__name__)
def test_an_architecture_without_fused_attention_keeps_its_attention(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    plain, ids = made(shape), torch.arange(2, 30)[None]
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(plain.config, key, getattr(byte_tokenizer, key))
    plain.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    loaded = load_model(BaseSettings(model=str(tmp_path), dtype="float32"), "cpu").model
    assert loaded.config._attn_implementation == "eager"
    torch.testing.assert_close(loaded(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)
    fresh = new_model_from_config(tmp_path, {})
    assert fresh.config._attn_implementation == "eager"
    assert type(fresh) is type(plain)


def test_a_folder_does_not_choose_the_attention(base_folder: Path) -> None:
    config = base_folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attn_implementation": "flash_attention_2"}))
    assert load(base_folder).model.config._attn_implementation == "sdpa"


def test_the_context_is_found_under_the_names_that_architectures_have_for_it() -> None:
    from transformers import BloomConfig, GPT2Config, MptConfig, WhisperConfig

    assert declared_context_length(MptConfig(max_seq_len=77)) == 77
    assert declared_context_length(BloomConfig(seq_length=78)) == 78
    assert declared_context_length(GPT2Config(n_positions=79)) == 79
    assert declared_context_length(BloomConfig()) is None
    assert declared_context_length(WhisperConfig(max_target_positions=80)) == 80


@pytest.mark.parametrize("length", [None, -1])
def test_without_a_bound_the_context_has_ours(length: int | None) -> None:
    from transformers import BloomConfig

    model: Any = Namespace(config=BloomConfig() if length is None else BloomConfig(seq_length=length))
    assert context_length(model) == DEFAULT_CONTEXT_LENGTH


def test_without_weights_it_is_refused(base_folder: Path) -> None:
    (base_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load(base_folder)


def test_pickled_weights_are_refused(base_folder: Path) -> None:
    (base_folder / "model.safetensors").rename(base_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only as pickle \(pytorch_model.bin\)"):
        load(base_folder)


def test_damaged_weights_are_refused(base_folder: Path) -> None:
    (base_folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(base_folder)


def test_missing_weights_are_refused(base_folder: Path) -> None:
    config = json.loads((base_folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (base_folder / "config.json").write_text(json.dumps(config | {"layer_types": None}))
    with pytest.raises(ModelError, match=r"weights are missing, such as model.layers.2"):
        load(base_folder)


def test_other_shapes_are_refused(base_folder: Path) -> None:
    config = json.loads((base_folder / "config.json").read_text())
    (base_folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(base_folder)


def test_code_of_the_model_is_never_run(base_folder: Path) -> None:
    config = json.loads((base_folder / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}}
    (base_folder / "config.json").write_text(json.dumps(config))
    for name in ("c.py", "m.py"):
        (base_folder / name).write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match="needs custom code"):
        load(base_folder)


def test_a_tokeniser_larger_than_the_embedding_is_refused(
    base_folder: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    byte_tokenizer.add_tokens([f"<extra-{number}>" for number in range(20)])
    byte_tokenizer.save_pretrained(str(base_folder))
    with pytest.raises(ModelError, match="278 tokens, its embedding 272 rows"):
        load(base_folder)


def test_a_missing_tokeniser_is_refused(base_folder: Path) -> None:
    for path in base_folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError):
        load(base_folder)


def test_an_adapter_is_no_base(base_folder: Path) -> None:
    (base_folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        load(base_folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere/at/all", "a/b/c"])
def test_a_path_without_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        load(name)


def test_nano_is_the_packaged_folder(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(ModelError, match="embedded model's weights are missing"):
        load("nano")
    shutil.copytree(base_folder, tmp_path / "weights")
    base = load("nano")
    assert base.name == "nano"
    assert base.model.name_or_path == "nano"


def test_devices_and_number_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(SettingsError, match="not available"):
        resolve_device("cuda")
    with pytest.raises(SettingsError, match="unknown"):
        resolve_device("tpu")
    for faster, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("lotune.model.dtype_benchmark.bfloat16_is_faster", lambda _, faster=faster: faster)
        assert resolve_dtype("auto", "cuda") == expected
        assert resolve_dtype("float32", "cpu") == torch.float32
        assert resolve_dtype("bfloat16", "cpu") == torch.bfloat16


def test_tied_parameters_are_counted_once(llama: LlamaForCausalLM) -> None:
    attention, mlp, norms = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 64, 2 * 32
    assert count_parameters(llama) == 272 * 32 + 2 * (attention + mlp + norms) + 32
    with torch.device("meta"):
        assert count_parameters(new_llama(LLAMA_3_8B)) == 8_030_261_248


def test_a_model_from_a_shape_is_trainable_and_checked(llama: LlamaForCausalLM) -> None:
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in llama.parameters())
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    with torch.device("meta"):
        assert new_llama(LLAMA_3_8B).config.rope_parameters["rope_theta"] == 500_000.0
    with pytest.raises(ModelError, match="unknown names: hiden_size"):
        new_llama({"hiden_size": 8})
    with pytest.raises(ModelError, match="not a multiple"):
        new_llama({"hidden_size": 10, "num_attention_heads": 3})
