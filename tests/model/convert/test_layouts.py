"""Every foreign layout computes after its conversion what a plain reference of it computes from the foreign file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import foreign_models as foreign
import pytest
import torch

from lotune.data.tokenizer_training import train_tokenizer
from lotune.model.convert.layouts import convert
from lotune.model.loading import load_model
from lotune.model.settings import BaseSettings


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer.json of 320 tokens at most that the random models take."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["one two three", "一二三"] * 20, 320, folder)
    return folder / "tokenizer.json"


IDS = [3, 17, 250, 9, 9, 101, 5, 64]


def make(name: str, folder: Path) -> tuple[Path, foreign.Logits]:
    """Write the random model of that name, and return its source with its reference."""
    kind, *options = name.split("-")
    if kind == "llama2c":
        version, shared = int(options[0][1]), options[1] == "shared"
        weights = foreign.llama2c_weights(shared)
        foreign.write_llama2c(folder / "model.bin", weights, version, shared)
        return folder / "model.bin", foreign.llama2c_logits(weights)
    if kind == "nanogpt":
        weights = foreign.nanogpt_weights(options[0] == "bias")
        prefix = "_orig_mod." if options[0] == "bias" else ""
        foreign.write_nanogpt(folder / "ckpt.pt", weights, options[0] == "bias", prefix)
        return folder / "ckpt.pt", foreign.nanogpt_logits(weights)
    config = foreign.INTERNLM1 if kind == "internlm1" else foreign.INTERNLM2
    weights = foreign.internlm_weights(config)
    foreign.write_internlm(folder / "source", config, weights, options[0])
    return folder / "source", foreign.internlm_logits(config, weights)


NAMES = (
    *("llama2c-v0-shared", "llama2c-v0-separate", "llama2c-v1-shared", "llama2c-v1-separate"),
    *("nanogpt-bias", "nanogpt-plain", "internlm1-bin", "internlm1-safetensors", "internlm2-bin"),
    "internlm2-safetensors",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_computes_what_the_foreign_one_computes(name: str, tmp_path: Path, tokenizer: Path) -> None:
    source, reference = make(name, tmp_path)
    convert(source, tmp_path / "target", tokenizer=tokenizer)
    model = load_model(BaseSettings(model=str(tmp_path / "target"), dtype="float32"), "cpu").model
    for ids in (IDS, IDS * 5):  # the second is longer than InternLM's context, where its rotary base grows
        computed = logits_of(model, ids)
        assert torch.allclose(computed, reference(ids), atol=1e-5, rtol=1e-5), (computed - reference(ids)).abs().max()
    generated = model.generate(
        torch.tensor([IDS]),
        attention_mask=torch.ones(1, len(IDS)),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generated[0, len(IDS) :].tolist() == foreign.greedy(reference, IDS, 12)


@torch.no_grad()
def logits_of(model: Any, ids: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits
