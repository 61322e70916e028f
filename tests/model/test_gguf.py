"""GGUF files hold the model: transformers reads them back, and llama.cpp answers as the engine does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from tiny_models import causal_lm
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lotune.data.conversation import Conversation
from lotune.data.templates import TEMPLATES
from lotune.errors import ModelError
from lotune.model.convert.gguf import PRE_TOKENIZERS, GgufOptions, jinja_of, pre_tokenizer_name, write_gguf
from lotune.model.loading import load_model
from lotune.model.settings import BaseSettings

gguf = pytest.importorskip("gguf")
SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 128}),
}
# The byte alphabet in the order of GPT-2, which splits as GPT-2 does.
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(["the answer is the question and the other one"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|endoftext|>")


def made(kind: str) -> Any:
    name, more = KINDS[kind]
    torch.manual_seed(0)
    return causal_lm(name, **SHAPE, initializer_range=0.2, **more).eval()


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_model_back(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    model, file = made(kind), tmp_path / "model.gguf"
    write_gguf(model, tokenizer, file, GgufOptions())
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 9, 20, 77, 30, 4]])
    with torch.inference_mode():
        assert torch.allclose(back(ids).logits, model(ids).logits, atol=1e-4)
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    for text in ("the answer is 42", "it's other  spaces\n\nand 计算！"):
        assert read(text, add_special_tokens=False)["input_ids"] == tokenizer(text)["input_ids"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 1e-3), ("bfloat16", 8e-3)])
def test_matrices_are_written_in_the_dtype_and_norms_in_float32(
    dtype: str, error: float, tokenizer: Any, tmp_path: Path
) -> None:
    model, file = made("llama"), tmp_path / "model.gguf"
    write_gguf(model, tokenizer, file, GgufOptions(dtype))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == kinds[dtype]
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    values = gguf.quants.dequantize(tensors["blk.1.ffn_down.weight"].data, tensors["blk.1.ffn_down.weight"].tensor_type)
    expected = model.model.layers[1].mlp.down_proj.weight.detach()
    assert (torch.tensor(values).view_as(expected) - expected).abs().max() <= error * expected.abs().max()


def test_scaled_rotary_embeddings_become_factors(tokenizer: Any, tmp_path: Path) -> None:
    """Those by which transformers divides the frequencies."""
    torch.manual_seed(0)
    model = causal_lm("LlamaConfig", **SHAPE, rope_parameters=LLAMA3)
    write_gguf(model, tokenizer, tmp_path / "model.gguf", GgufOptions())
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    factors = torch.tensor(tensors["rope_freqs.weight"].data)
    plain = 500_000.0 ** -(torch.arange(0, 16, 2) / 16)
    assert torch.allclose(plain / factors, model.model.rotary_emb.inv_freq, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "more", "found"),
    [
        ("GPT2Config", {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 300}, "is of the type gpt2"),
        (
            "LlamaConfig",
            {**SHAPE, "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
            "of the type yarn",
        ),
        ("LlamaConfig", {**SHAPE, "attention_bias": True}, ""),
    ],
)
def test_what_gguf_cannot_hold_is_refused_and_leaves_no_file(
    config: str, more: dict[str, Any], found: str, tokenizer: Any, tmp_path: Path
) -> None:
    model = causal_lm(config, **more)
    if not found:  # biases have names
        write_gguf(model, tokenizer, tmp_path / "model.gguf", GgufOptions())
        return
    with pytest.raises(ModelError, match=found):
        write_gguf(model, tokenizer, tmp_path / "model.gguf", GgufOptions())
    assert not list(tmp_path.iterdir())


def test_the_split_of_a_tokeniser_is_found_by_what_it_encodes(tokenizer: Any, small_base: Path) -> None:
    """A small vocabulary is split alike by several, and the first of them will do."""
    for found in (tokenizer.backend_tokenizer, AutoTokenizer.from_pretrained(small_base).backend_tokenizer):
        assert pre_tokenizer_name(found, "x") in PRE_TOKENIZERS
    assert pre_tokenizer_name(load_tokenizer_of_nano(), "x") == "default"
    digits = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    digits.train_from_iterator(["1234567890 1,000,000 2026"] * 50, trainer)
    assert pre_tokenizer_name(digits, "x") == "gpt-2"  # joins more than three digits
    lower = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    lower.normalizer = normalizers.Lowercase()
    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(False)]
    )
    with pytest.raises(ModelError, match="in a way that llama"):
        pre_tokenizer_name(other, "x")
    with pytest.raises(ModelError, match="a normaliser"):
        pre_tokenizer_name(lower, "x")


def load_tokenizer_of_nano() -> Any:
    from lotune.model.loading import load_tokenizer

    tokenizer: Any = load_tokenizer(BaseSettings(model="nano"))[0]
    return tokenizer.backend_tokenizer


@pytest.mark.parametrize("name", ["alpaca", "qa", "internlm", "plain"])
def test_the_chat_template_renders_what_the_prompt_template_does(name: str, tokenizer: Any) -> None:
    form = TEMPLATES[name]
    for conversation in (
        Conversation(('Why {x} "y"?',)),
        Conversation(("1?", "2\n?", "3?"), ("a", "b"), system="Be brief."),
    ):
        turns = form.render_conversation(conversation)
        expected = "".join(prompt + answer + "<|endoftext|>" for prompt, answer in turns[:-1]) + turns[-1][0]
        rendered = tokenizer.apply_chat_template(
            conversation.messages, chat_template=jinja_of(form), tokenize=False, add_generation_prompt=True
        )
        assert rendered == expected


def test_a_model_is_exported_from_the_command_line(small_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.gguf"
    result = json.loads(call("export", "gguf", small_base, "--out", out, "--json").stdout)
    assert result["bytes"] == out.stat().st_size
    again = call("export", "gguf", small_base, "--out", out, status=2)
    assert "already exists" in again.stderr
    assert "a .gguf file" in call("export", "gguf", small_base, "--out", tmp_path / "x.bin", status=2).stderr
    fields = gguf.GGUFReader(out).fields
    assert "Below is an instruction" in fields["tokenizer.chat_template"].contents()


@pytest.mark.oracle
@pytest.mark.slow
def test_llama_cpp_answers_as_the_engine_does(tmp_path: Path) -> None:
    """nano, greedily, in float32, with tokens of its own tokeniser."""
    llama_cpp = pytest.importorskip("llama_cpp")
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Request

    base = load_model(BaseSettings(model="nano", dtype="float32"), "cpu")
    write_gguf(base.model, base.tokenizer, tmp_path / "nano.gguf", GgufOptions())
    other = llama_cpp.Llama(str(tmp_path / "nano.gguf"), n_ctx=512, verbose=False, logits_all=False)
    for prompt in ("The river begins", "计算 12 + 30 等于多少？", "Mei's garden (small) has 3 trees.\n\nQuestion:"):
        ids = base.tokenizer(prompt)["input_ids"]
        assert other.tokenize(prompt.encode(), add_bos=False) == ids
        [(_, ours)] = Engine(base.model, base.tokenizer).stream([Request(tuple(ids), 24)])
        theirs = other.create_completion(ids, max_tokens=24, temperature=0)["choices"][0]["text"]
        assert theirs == ours.text


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_file_names_the_format_of_its_tensors(dtype: str, tokenizer: Any, tmp_path: Path) -> None:
    """OpenVINO reads no file without it."""
    write_gguf(made("llama"), tokenizer, tmp_path / "model.gguf", GgufOptions(dtype))
    [kind] = gguf.GGUFReader(tmp_path / "model.gguf").fields["general.file_type"].parts[-1]
    names = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    assert gguf.LlamaFileType(kind).name == names[dtype]
