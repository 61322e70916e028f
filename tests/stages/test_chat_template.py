"""Which template conversations are rendered in: the checkpoint's, the tokeniser's chat template, then lotune's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import app, call, save_template
from typer.testing import CliRunner

from lotune.data.templates import TEMPLATE_FILE, TEMPLATES
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.stages.prompt_template import has_chat_template, resolve_auto, resolve_training_template
from lotune.tasks.arithmetic.task import ArithmeticSettings
from lotune.tasks.instructions.task import InstructionsSettings

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECIPE = """
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}
task: {{name: instructions, max_new_tokens: 4}}
data: {{train: {rows}, validation_rows: 2, test_rows: 2}}
tune: {{micro_batch_rows: 8, steps: 2}}
checkpoints: {{count: 1, merge_check_rows: 2}}
retention: {{rows: 2, replay: {{rows: 0}}, validation_rows: 0}}
"""


@pytest.fixture(scope="module")
def chat_base(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokeniser has ChatML's tokens and template, and another end-of-text token."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(small_base, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


def test_the_order_of_templates(chat_base: Path, small_base: Path, tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    save_template(tmp_path / "trained", TEMPLATES["qa"])

    def template(base: Path, **task: Any) -> str:
        start = Recipe().adapter.model_copy(update={"init_from": task.pop("init_from", None)})
        recipe = Recipe(task=InstructionsSettings(**task), base=BaseSettings(model=str(base)), adapter=start)
        result: Any = resolve_training_template(recipe).task
        return result.template

    assert template(tmp_path / "trained") == "qa"
    assert template(chat_base, init_from=tmp_path / "trained") == "qa"
    assert template(chat_base) == "chat"
    assert template(small_base) == "alpaca"
    assert template(chat_base, template="plain") == "plain"
    bases = [BaseSettings(model=str(base)) for base in (chat_base, small_base)]
    assert [has_chat_template(base) for base in bases] == [True, False]
    assert [resolve_auto(InstructionsSettings(), base).template for base in bases] == ["chat", "alpaca"]  # type: ignore[attr-defined]
    assert resolve_auto(ArithmeticSettings(), bases[0]) == ArithmeticSettings()


@pytest.mark.slow
def test_a_model_tuned_in_its_chat_template_is_evaluated_in_it(chat_base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows, recipe = tmp_path / "rows.jsonl", tmp_path / "mine.yaml"
    turns = [
        ("user", "计算 {} + 1 等于多少？"),
        ("assistant", "{} + 1"),
        ("user", "the answer"),
        ("assistant", "short {}"),
    ]
    rows.write_text("".join(
        json.dumps({"messages": [{"role": role, "content": text.format(n)} for role, text in turns]}) + "\n"
        for n in range(20)
    ))  # fmt: skip
    recipe.write_text(RECIPE.format(base=chat_base, rows=rows))
    call("run", recipe, f"runs={tmp_path / 'runs'}")
    folder = tmp_path / "runs" / "mine"
    first = json.loads((folder / "data" / "counts.json").read_text())["tokens"]["first"]
    assert first.count("⟦") == 2
    assert "<|im_start|>assistant\n⟦short " in first
    assert first.endswith("<|im_end|>⟧")
    [merged] = (folder / "checkpoints").glob("*/merged")
    assert json.loads((merged / TEMPLATE_FILE).read_text())["name"] == "chat"
    asked = json.loads(call("generate", "--model", merged, "--prompt", "Who?", "--json", "--dry-run").stdout)
    assert asked["prompt"] == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    answers = (folder / "predictions" / "instructions" / "base.jsonl").read_text().splitlines()
    assert {json.loads(line)["template"] for line in answers} == {"chat"}
    end = AutoTokenizer.from_pretrained(merged).convert_tokens_to_ids("<|im_end|>")
    assert end in json.loads((merged / "generation_config.json").read_text())["eos_token_id"]
    refused = call("evaluate", "--model", merged, "--task", "arithmetic", "--limit", 2, status=2).stderr
    assert "was tuned with a version of the template 'chat' that arithmetic does not have" in refused
    talked = CliRunner().invoke(app, ["chat", "--model", str(merged), "--max-new-tokens", "3"], input="Who?\n/exit\n")
    assert talked.exit_code == 0, talked.stderr
    assert "template chat" in talked.stderr
    words = ("--model", merged, "--task", "instructions", "--data", rows, "--json")
    assert json.loads(call("evaluate", *words).stdout)["n"] == 20
    claims = {one["name"]: one["passed"] for one in json.loads((folder / "scorecard.json").read_text())["claims"]}
    assert claims["one template"] is True
    call("bundle", folder, "--team", "mine", "--out", tmp_path / "mine.zip")
    checked = json.loads(call("bundle", "--check", tmp_path / "mine.zip", "--rerun", 2, "--json", status=1).stdout)
    failed = {one["name"] for one in checked["checks"] if one["result"] == "failed"}
    assert failed == {"spacing"}, "one checkpoint is not five"
