"""Each family of base models goes the whole way: converted, loaded, tuned, saved, merged, read again, generating.

A row of FAMILIES is a random tiny model in the layout that its family is published in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_models as foreign
import pytest
import torch
from command_line import call
from steps import some_rows
from tiny_models import causal_lm

from lotune.data.collate import Collator
from lotune.data.tokenizer_training import train_tokenizer
from lotune.generate.engine import generate_completions
from lotune.generate.requests import Request
from lotune.model.checkpoints import init_adapter, save_adapter
from lotune.model.loading import load_model
from lotune.model.methods.registry import adapter_settings
from lotune.model.settings import BaseSettings
from lotune.train.loop import train
from lotune.train.optimizers import make_optimizers
from lotune.train.settings import TuneSettings

SMALL = {"vocab_size": 320, "eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
WIDE = {
    **SMALL, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}


def pickled(config_class: str, **settings: Any) -> Callable[[Path], Path]:
    """A model of transformers as older ones are published: pytorch_model.bin."""

    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        model = causal_lm(config_class, **settings)
        source = folder / "source"
        model.config.save_pretrained(str(source))
        torch.save(model.state_dict(), source / "pytorch_model.bin")
        return source

    return write


def internlm(config: dict[str, Any], form: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        foreign.write_internlm(folder / "source", config, foreign.internlm_weights(config), form)
        return folder / "source"

    return write


def llama2c(folder: Path) -> Path:
    (folder / "source").mkdir()
    foreign.write_llama2c(folder / "source" / "model.bin", foreign.llama2c_weights(True), 1, True)
    return folder / "source" / "model.bin"


def nanogpt(folder: Path) -> Path:
    (folder / "source").mkdir()
    foreign.write_nanogpt(folder / "source" / "ckpt.pt", foreign.nanogpt_weights(False), False)
    return folder / "source"


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llama": pickled("LlamaConfig", **WIDE),
    "internlm1": internlm(foreign.INTERNLM1, "bin"),
    "internlm2": internlm(foreign.INTERNLM2, "safetensors"),
    "qwen2": pickled("Qwen2Config", **WIDE),
    "qwen3": pickled("Qwen3Config", **WIDE, head_dim=8),
    "gemma": pickled("GemmaConfig", **WIDE, head_dim=8),
    "gemma2": pickled("Gemma2Config", **WIDE, **LAYERS, head_dim=8, query_pre_attn_scalar=8),
    "gemma3": pickled("Gemma3TextConfig", **WIDE, **LAYERS, head_dim=8, query_pre_attn_scalar=8),
    "mistral": pickled("MistralConfig", **WIDE, sliding_window=64),
    "gpt2": pickled("GPT2Config", **SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "llama2c": llama2c,
    "nanogpt": nanogpt,
}
TARGETS = {"gpt2": ["c_attn"], "nanogpt": ["c_attn", "c_fc"]}
PROMPTS = ((5, 9, 12, 40, 7), (100, 3, 3, 250))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["one two three", "一二三"] * 20, 320, folder)
    return folder


QUICK = ("internlm2", "gemma3", "nanogpt")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAMILIES]
)
def test_a_family_goes_the_whole_way(family: str, tmp_path: Path, tokenizer: Path) -> None:
    base, adapter, merged = (tmp_path / name for name in ("base", "adapter", "merged"))
    source = FAMILIES[family](tmp_path)
    printed = call("convert", source, base, "--tokenizer", tokenizer / "tokenizer.json").stdout
    assert "tokeniser: tokenizer.json" in printed
    tune_two_steps(base, adapter, TARGETS.get(family, ["q_proj", "v_proj"]))
    printed = call("merge", adapter, merged, "base.dtype=float32", "device=cpu").stdout
    assert "check: passed on 32 rows" in printed

    loaded = load_model(BaseSettings(model=str(merged), dtype="float32"), "cpu")
    theirs = in_peft(base, adapter)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        expected, plain = theirs(ids).logits, in_transformers(base)(ids).logits
        assert (expected - plain).abs().max() > 1e-4  # the training changed the model
        assert torch.allclose(loaded.model(ids).logits, expected, atol=1e-5, rtol=1e-5)
        assert torch.allclose(in_transformers(merged)(ids).logits, expected, atol=1e-5, rtol=1e-5)
    requests = [Request(prompt, 8) for prompt in PROMPTS]
    answers = generate_completions(loaded.model, loaded.tokenizer, requests, batch_tokens=1024)
    assert [list(answer.token_ids) for answer in answers] == [greedy(theirs, prompt) for prompt in PROMPTS]


def tune_two_steps(base: Path, folder: Path, targets: list[str]) -> None:
    """Train a LoRA adapter on a converted base for two steps, and save it."""
    loaded = load_model(BaseSettings(model=str(base), dtype="float32"), "cpu")
    model = init_adapter(loaded, adapter_settings(rank=2, target_modules=targets), 0)
    batches = Collator(8, 1024, pad_token_id=1, packed=False).batches(some_rows(8))
    optimizers = make_optimizers(model, TuneSettings(learning_rate=0.05))
    steps = list(train(model, [batches, batches], optimizers, [1.0, 1.0], max_grad_norm=1.0))
    assert [step.number for step in steps] == [1, 2]
    save_adapter(model, folder, base=loaded)


def in_transformers(folder: Path) -> Any:
    """The model as plain transformers opens it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def in_peft(base: Path, adapter: Path) -> Any:
    """The adapted model as plain PEFT opens it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(in_transformers(base), str(adapter)).eval()


def greedy(model: Any, prompt: tuple[int, ...]) -> list[int]:
    """The greedy answer as transformers generates it, without the end-of-text token."""
    with torch.no_grad():
        row = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8, do_sample=False, pad_token_id=1,
        )[0, len(prompt) :].tolist()  # fmt: skip
    return row[: row.index(0)] if 0 in row else row
