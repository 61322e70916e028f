"""Pre-training through the command line: text, tokeniser and model from a seed, small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RECIPE = """
seed: 2
device: cpu
pretrain:
  documents: 120
  batch_tokens: 1024
  steps: 12
  optimizer: OPTIMIZER
  publish: PUBLISH
  validation_share: 0.2
  config: {vocab_size: 420, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4,
    intermediate_size: 64}
"""


@pytest.fixture(autouse=True)
def few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lotune.stages.pretrain.TOKENIZER_DOCUMENTS", 150)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_base_model_from_nothing(tmp_path: Path, optimizer: str) -> None:
    import torch

    from lotune.model.base import load_base
    from lotune.model.settings import BaseSettings

    recipe = tmp_path / "mini.yaml"
    recipe.write_text(RECIPE.replace("OPTIMIZER", optimizer).replace("PUBLISH", str(tmp_path / "weights")))
    words = ("pretrain", recipe, f"runs={tmp_path / 'runs'}", "--json")
    assert json.loads(call(*words, "--dry-run").stdout) == {"documents": 120, "steps": 12}
    figures = json.loads(call(*words).stdout)
    steps = [json.loads(line) for line in (tmp_path / "runs" / "mini" / "metrics.jsonl").read_text().splitlines()]
    assert [step["number"] for step in steps] == list(range(1, figures["steps"] + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert 0 < figures["validation_loss"] < steps[0]["loss"]
    base = load_base(BaseSettings(model=str(tmp_path / "weights")), "cpu")
    assert sum(p.numel() for p in base.model.parameters()) == figures["parameters"]
    assert all(p.dtype == torch.float32 or base.dtype == torch.bfloat16 for p in base.model.parameters())
    stamp = (tmp_path / "runs" / "mini" / "model" / "model.safetensors").stat().st_mtime_ns
    assert "nothing has changed" in call(*words).stderr
    assert (tmp_path / "runs" / "mini" / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    call(*words, "pretrain.steps=2", "pretrain.config.vocab_size=400", "pretrain.publish=null")
    assert json.loads((tmp_path / "runs" / "mini" / "model" / "config.json").read_text())["vocab_size"] == 400
    load_base(BaseSettings(model=str(tmp_path / "runs" / "mini" / "model")), "cpu")
    lines = (tmp_path / "runs" / "mini" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2, "the metrics of an older training stand among those of this one"


def test_a_recipe_without_the_part(tmp_path: Path) -> None:
    recipe = tmp_path / "plain.yaml"
    recipe.write_text("seed: 1\n")
    assert "has no pretrain part" in call("pretrain", recipe, f"runs={tmp_path}", status=2).stderr


@pytest.mark.slow
def test_going_on_from_a_model(tmp_path: Path) -> None:
    """`pretrain.start` takes a model's weights and tokeniser; a first step from there is not one from nothing."""
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(RECIPE.replace("OPTIMIZER", "adamw").replace("PUBLISH", str(tmp_path / "weights")))
    runs = f"runs={tmp_path / 'runs'}"
    call("pretrain", recipe, runs, "pretrain.steps=12", "pretrain.batch_tokens=2048")
    more = (f"pretrain.start={tmp_path / 'weights'}", f"pretrain.publish={tmp_path / 'more'}", "name=more")
    call("pretrain", recipe, runs, *more)

    def losses(name: str) -> list[float]:
        lines = (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses("more")[0] < losses("mini")[0] - 0.1
    tokenizers = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("weights", "more")]
    assert tokenizers[0] == tokenizers[1]


def test_a_heading_alone_does_not_end_its_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    from lotune.data.examples import Example
    from lotune.stages.pretrain import _encoded

    whole, heading = (
        _encoded(byte_tokenizer, Example("1", "2*3=", ":\n02,03*+\n", kind=k)) for k in ("sum", "heading")
    )
    assert whole.tokens == (*heading.tokens, byte_tokenizer.eos_token_id)
    assert whole.answer_start == heading.answer_start == 4
