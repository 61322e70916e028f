"""Models whose logits are not finite, through the command line: status 1 with model, row and layer, and no score."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import RECIPE, invoke
from safetensors.torch import load_file, save_file

from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import save_adapter
from lotune.model.loading import load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.settings import BaseSettings

WEIGHTS = "model.safetensors"
NORM = "model.layers.1.post_attention_layernorm.weight"


def damaged(base: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a base of whose weights one tensor has a value that is not finite at its beginning."""
    shutil.copytree(base, folder)
    tensors = load_file(base / WEIGHTS)
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def nan_base(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damaged(small_base, tmp_path_factory.mktemp("damaged") / "nan-base", NORM, math.nan)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows to calculate, to choose and to read."""
    folder = tmp_path_factory.mktemp("rows")
    sums = [{"problem": f"计算 {n}.00 + 1.00 等于多少？", "solution": f"{n} + 1 = {n + 1}"} for n in range(3)]
    choices = [{"Question": f"{n}?", "A": "1", "B": "2", "C": "3", "D": "4", "Answer": "A"} for n in range(3)]
    for name, lines in (("sums", sums), ("choices", choices), ("articles", [{"text": "计算 1 + 1 等于多少？"}])):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


COMMANDS = {
    "evaluate": "evaluate --task arithmetic --data {rows}/sums.jsonl task.max_new_tokens=4",
    "reading": "evaluate --task reading --limit 2 task.max_new_tokens=4",
    "letters": "evaluate --task choice --data {rows}/choices.jsonl task.scorer=likelihood:letter",
    "text": "evaluate --task text --data {rows}/articles.jsonl",
    "generate": "generate --task arithmetic --data {rows}/sums.jsonl --out {out}/a.jsonl task.max_new_tokens=4",
    "drawn": "generate --task arithmetic --data {rows}/sums.jsonl --out {out}/b.jsonl --temperature 1",
    "prompt": "generate --prompt 计算 --temperature 1 --samples 2",
}


def stopped(command: str, model: Path, rows: Path, out: Path) -> str:
    """The message with which a command stops."""
    result = invoke(
        *(word.format(rows=rows, out=out) for word in command.split()), "--model", model, "base.dtype=float32"
    )
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.stderr
    assert not result.stdout
    assert not list(out.glob("*.jsonl"))
    output = result.stderr.splitlines()[-3:]
    assert output[0].startswith(str(model))
    assert output[1].startswith("expected: finite logits")
    return output[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_base_with_nan_gets_no_score(name: str, nan_base: Path, rows: Path, tmp_path: Path) -> None:
    output = stopped(COMMANDS[name], nan_base, rows, tmp_path)
    assert "the logits hold nan" in output
    assert output.endswith("that is not finite is that of model.layers.1.post_attention_layernorm")
    assert ("--prompt" if name == "prompt" else "article" if name == "text" else "row ") in output


def test_an_infinite_logit_is_found_in_the_head(small_base: Path, rows: Path, tmp_path: Path) -> None:
    base = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    config = json.loads((small_base / "config.json").read_text())
    head = torch.zeros_like(base.model.get_output_embeddings().weight)
    shutil.copytree(small_base, tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    head[5] = math.inf
    tensors = load_file(small_base / WEIGHTS) | {"lm_head.weight": head}
    save_file(tensors, tmp_path / "base" / WEIGHTS, metadata={"format": "pt"})
    for name in ("evaluate", "letters", "drawn"):
        assert stopped(COMMANDS[name], tmp_path / "base", rows, tmp_path).endswith("is that of lm_head")


def test_adapters_and_merged_models_too(small_base: Path, rows: Path, tmp_path: Path) -> None:
    base = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    model: Any = add_adapter(base.model, LoraSettings(rank=2), 0)
    for name, parameter in model.named_parameters():
        if "layers.1" in name and "v_proj.lora_B" in name:
            parameter.data[0, 0] = math.nan
    save_adapter(model, tmp_path / "adapter")
    output = stopped(COMMANDS["evaluate"], tmp_path / "adapter", rows, tmp_path)
    assert output.endswith("is that of model.layers.1.self_attn.v_proj.lora_B.default")
    merged = damaged(small_base, tmp_path / "merged", "model.layers.1.self_attn.v_proj.weight", math.nan)
    assert stopped(COMMANDS["letters"], merged, rows, tmp_path).endswith("is that of model.layers.1.self_attn.v_proj")


def test_a_run_stops_at_the_answers_of_a_damaged_base(nan_base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "run.yaml"
    recipe.write_text(RECIPE.format(base=nan_base))
    result = invoke("tune", recipe, f"runs={tmp_path / 'runs'}", "checkpoints.count=1", "tune.steps=1")
    assert result.exit_code == 1, result.stderr
    assert result.stderr.splitlines()[-3].startswith("the base, before tuning, row ")


def test_a_run_stops_at_the_validation_of_a_damaged_model(nan_base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither the base's answers nor the loss of the training are looked at here: validation meets the model first."""
    from lotune.stages import training_session, tuning
    from lotune.train.loop import Step

    recipe = tmp_path / "run.yaml"
    recipe.write_text(RECIPE.format(base=nan_base))
    monkeypatch.setattr(tuning, "_base_answers", lambda *_: [[]])
    monkeypatch.setattr(training_session, "train_steps", lambda *_: iter([Step(1, 1.0, 0.1, 1, 1, 0.1, 1.0)]))
    words = ("checkpoints.count=1", "tune.steps=1", "retention.validation_rows=0")
    result = invoke("tune", recipe, f"runs={tmp_path / 'runs'}", *words)
    assert result.exit_code == 1, result.stderr
    output = result.stderr.splitlines()[-3]
    assert output.startswith("validating step-000001, row ")
    assert "that is not finite is that of model.layers.1.post_attention_layernorm" in output
