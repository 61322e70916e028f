"""A run that torchrun starts in two processes finds what one process finds, and is one run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from command_line import RECIPE, call


def together(*words: object) -> processes.Ended:
    """What the command leaves in two processes."""
    completed = processes.ranks(processes.LOTUNE, ["lotune", *words])
    assert completed.returncode == 0, completed.stderr
    return completed


@pytest.mark.slow
def test_two_processes_carry_out_a_run_as_one_does(tmp_path: Path, small_base: Path) -> None:
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    call("run", recipe, f"runs={tmp_path / 'alone'}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ["lotune", "run", str(recipe), f"runs={tmp_path / 'two'}", "--json"]
    completed = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    steps = [
        [json.loads(line) for line in (tmp_path / name / "mini" / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "two")
    ]
    assert len(steps[0]) == len(steps[1]) > 5
    for step, other in zip(*steps, strict=True):
        assert step.keys() == other.keys()
        for name in {"loss", "gradient_norm"} & step.keys():
            assert other[name] == pytest.approx(step[name], rel=1e-5)
        for name in {"number", "tokens", "supervised"} & step.keys():
            assert other[name] == step[name]
    scorecards = [json.loads((tmp_path / name / "mini" / "scorecard.json").read_text()) for name in ("alone", "two")]
    assert scorecards[0]["parameters"] == scorecards[1]["parameters"]
    assert json.loads(completed.stdout) == scorecards[1], "one process speaks"


@pytest.mark.slow
def test_two_processes_end_a_tuning_early_together(tmp_path: Path, small_base: Path) -> None:
    recipe = tmp_path / "flat.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    flat = ("tune.learning_rate=1e-9", "tune.epochs=2", "checkpoints.spacing=adaptive", "checkpoints.count=5")
    said = together("tune", recipe, f"runs={tmp_path}", *flat).stderr
    assert "ends early: validation is no better than at half the steps; the learning rate falls until step 5" in said
    trained = json.loads((tmp_path / "flat" / "training.json").read_text())
    assert [one["step"] for one in trained["checkpoints"]] == [2, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sharded_weights_are_trained_like_whole_ones(tmp_path: Path, precision: str) -> None:
    """A pre-training through torchrun with `fsdp=on`, and a tuning of what came of it."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SHARDED.format(precision=precision))
    model = tmp_path / "alone" / "tiny" / "model"
    tuning = (
        "name=tuned",
        f"base.model={model}",
        "base.dtype=float32",
        "data.generated_rows=60",
        "tune.epochs=1",
        "tune.micro_batch_rows=16",
    )
    for verb, name, words in (("pretrain", "tiny", ()), ("tune", "tuned", tuning)):
        losses = {}
        call(verb, recipe, f"runs={tmp_path / 'alone'}", *words)
        together(verb, recipe, f"runs={tmp_path / 'two'}", *words, "fsdp=on")
        for place in ("alone", "two"):
            lines = (tmp_path / place / name / "metrics.jsonl").read_text().splitlines()
            losses[place] = [step["loss"] for step in map(json.loads, lines) if "loss" in step]
        close = 1e-4 if precision == "float32" or verb == "tune" else 2e-2
        assert losses["two"] == pytest.approx(losses["alone"], rel=close)
        assert len(losses["two"]) > 2


SHARDED = """
seed: 2
device: cpu
pretrain:
  generated_documents: 120
  step_tokens: 1024
  steps: 4
  optimizer: adamw
  autocast_dtype: {precision}
  llama_config: {{vocab_size: 420, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4,
    num_key_value_heads: 4, intermediate_size: 64}}
task: {{name: reading}}
retention: {{rows: 5, replay: {{rows: 0}}, validation_rows: 3}}
data: {{test_rows: 5, validation_rows: 5}}
checkpoints: {{count: 1, merged: none}}
"""


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(tmp_path: Path, small_base: Path) -> None:
    words = ["evaluate", "--model", small_base, "--task", "reading", "--limit", "7", "--json", "--out"]
    result = {}
    for name, start in (("alone", call), ("two", together)):
        completed = start(*words, tmp_path / f"{name}.jsonl")
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        result[name] = json.loads(completed.stdout), sorted(lines, key=lambda line: line["id"])
    assert result["alone"] == result["two"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["alone.jsonl", "two.jsonl"]

    lines = (tmp_path / "two.jsonl").read_text().splitlines(keepends=True)
    remaining = json.loads(lines[0]) | {"answer": "kept as it is"}
    (tmp_path / "two.jsonl.2-of-3").write_text(json.dumps(remaining) + "\n")  # of three processes that were stopped
    (tmp_path / "two.jsonl").write_text("".join(lines[2:]))
    together(*words, tmp_path / "two.jsonl")
    answers = [json.loads(line)["answer"] for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    assert len(answers) == 7
    assert answers.count("kept as it is") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["alone.jsonl", "two.jsonl"]
