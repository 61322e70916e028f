"""A model alone: an adapter beside its base, answers kept only where they are the same, keys before questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call

from lotune.data.templates import TEMPLATES
from lotune.errors import ModelError, SettingsError
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import merge, save_adapter, save_model
from lotune.model.loading import load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.stages.model_loading import load_model_or_adapter, resolve_weights
from lotune.stages.predictions import answers_fingerprint
from lotune.tasks.arithmetic.task import ArithmeticSettings

MARKS = {
    "task.max_new_tokens=20", "task.template=plain", "task.instruction_prefix=Hm.",
    "base.dtype=bfloat16", "evaluate.engine=vllm",
    "task.name=choice task.scorer=likelihood:letter",
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint: an adapter that changes every answer, asked in the template plain, and the merged model."""
    folder = tmp_path_factory.mktemp("tuned")
    base = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    model: Any = add_adapter(base.model, LoraSettings(rank=4), 0)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw))
    template = json.dumps({name: getattr(TEMPLATES["plain"], name) for name in ("name", "without_input", "with_input")})
    save_adapter(model, folder / "adapter", template)
    plain = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    save_model(merge(plain, folder / "adapter"), plain.tokenizer, folder / "merged", torch.float32, template)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "test.jsonl"
    lines = [{"problem": f"计算 {n}.00 + 1.00 等于多少？", "solution": f"{n} + 1 = {n + 1}"} for n in range(6)]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_an_adapter_answers_as_the_merged_model_does(tuned: Path, small_base: Path, rows: Path, tmp_path: Path) -> None:
    words = ("--task", "arithmetic", "--data", rows, "task.max_new_tokens=6", "base.dtype=float32", "device=cpu")
    output = {}
    for name, folder in (("adapter", tuned / "adapter"), ("merged", tuned / "merged"), ("base", small_base)):
        out = tmp_path / f"{name}.jsonl"
        output[name] = json.loads(call("evaluate", "--model", folder, *words, "--out", out, "--json").stdout)
    answers = {
        name: {record["id"]: (record["prompt"], record["answer"]) for record in records(tmp_path / f"{name}.jsonl")}
        for name in output
    }
    assert answers["adapter"] == answers["merged"]
    assert {text for _, text in answers["adapter"].values()}.isdisjoint(text for _, text in answers["base"].values())
    assert "### Response" in answers["base"]["test.jsonl:1"][0]
    assert "### Response" not in answers["adapter"]["test.jsonl:1"][0], "in the template that the adapter was tuned in"
    out = tmp_path / "answers.jsonl"
    call("generate", "--model", tuned / "adapter", *words, "--out", out)
    assert {record["id"]: record["answer"] for record in records(out)} == {
        id: text for id, (_, text) in answers["merged"].items()
    }
    displayed = call("evaluate", "--model", tuned / "adapter", *words).stdout
    assert "on cpu in float32: 6 rows, judged by significant:5" in displayed
    assert "accuracy: 0 (95 % interval 0 to 0.3903)" in displayed


def test_the_base_of_an_adapter(tuned: Path, small_base: Path, tmp_path: Path) -> None:
    adapter = str(tuned / "adapter")
    assert resolve_weights(Recipe(), adapter) == (BaseSettings(model=str(small_base)), tuned / "adapter")
    named = Recipe.model_validate({"base": {"model": "nano"}})
    assert resolve_weights(named, adapter)[0].model == "nano"
    with pytest.raises(SettingsError, match="is a complete model, not an adapter"):
        resolve_weights(named, str(small_base))
    with pytest.raises(ModelError, match="does not fit nano"):
        load_model_or_adapter(named, adapter)
    shutil.copytree(adapter, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "adapter_config.json").read_text())
    for base, result in ((str(tmp_path / "gone"), "its base cannot be loaded"), (None, "names no base")):
        (tmp_path / "odd" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        with pytest.raises(ModelError, match=f"(?s){result}.*--base"):
            load_model_or_adapter(Recipe(), str(tmp_path / "odd"))
    model = load_model_or_adapter(Recipe.model_validate({"base": {"model": str(small_base)}}), str(tmp_path / "odd"))
    assert hasattr(model.model, "peft_config")
    output = call(
        "evaluate", "--model", adapter, "--task", "arithmetic", "--limit", 1, "evaluate.engine=vllm", status=2
    )
    assert "vllm does not support this: an unmerged adapter" in output.stderr


def test_the_fingerprint_covers_what_an_answer_depends_on(small_base: Path, tuned: Path) -> None:
    from lotune.settings import read_settings

    def mark(*words: str, model: Path = small_base, **more: Any) -> str:
        recipe = read_settings(Recipe, None, [*words, "device=cpu"])
        return answers_fingerprint(recipe, str(model), recipe.task, **more)

    plain = mark("base.dtype=float32")
    further = {mark(*([] if "dtype" in words else ["base.dtype=float32"]), *words.split()) for words in MARKS}
    further |= {mark("base.dtype=float32", model=tuned / name) for name in ("adapter", "merged")}
    further.add(mark("base.dtype=float32", shots=2))
    assert len(further | {plain}) == len(MARKS) + 4
    for same in ("task.scorer=exact", "evaluate.max_batch_tokens=9", "seed=4", "threads=1"):
        assert mark("base.dtype=float32", same) == plain
    assert answers_fingerprint(Recipe(), str(small_base), ArithmeticSettings(), x=1) != answers_fingerprint(
        Recipe(), str(small_base), ArithmeticSettings(), x=2
    )


@pytest.mark.slow
def test_answers_of_other_settings_are_refused_and_valid_ones_stay(
    small_base: Path, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.jsonl"
    words = ("evaluate", "--model", small_base, "--task", "arithmetic", "--data", rows, "--out", out, "--json")
    call(*words, "task.max_new_tokens=1")
    before = out.read_bytes()
    assert before.count(b"\n") == 6
    refused = call(*words, "task.max_new_tokens=20", status=2).stderr
    assert "of another model or other settings" in refused
    assert "choose another file with --out" in refused
    few = json.loads(call(*words, "task.max_new_tokens=1", "--limit", 2).stdout)
    assert few["n"] == 2
    assert sorted(out.read_bytes().splitlines()) == sorted(before.splitlines()), "no answer is lost"
    exact = json.loads(call(*words, "task.max_new_tokens=1", "task.scorer=exact").stdout)
    assert (exact["scorer"], exact["n"]) == ("exact", 6)


@pytest.mark.parametrize("free", [None, 1_000])
def test_a_processor_with_fast_bfloat16_answers_in_float32_while_there_is_room(
    small_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr("lotune.model.dtype_benchmark.bfloat16_is_faster", lambda _: True)
    monkeypatch.setattr("lotune.model.answering.free_memory_bytes", lambda _: free)
    words = ("--model", small_base, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=8", "device=cpu")
    dtype = "float32" if free is None else "bfloat16"
    texts = []
    for batch_tokens in (1, 9_999):
        out = tmp_path / f"{batch_tokens}.jsonl"
        result = call("evaluate", *words, f"evaluate.max_batch_tokens={batch_tokens}", "--out", out, "--json")
        assert json.loads(result.stdout)["dtype"] == dtype
        assert (f"{small_base} answers in bfloat16: float32 needs" in result.stderr) == (free is not None)
        texts.append(sorted((record["id"], record["answer"]) for record in records(out)))
    if free is None:
        assert texts[0] == texts[1]
    named = json.loads(call("evaluate", *words, "evaluate.dtype=float32", "--json").stdout)
    assert named["dtype"] == "float32"


@pytest.mark.parametrize(("words", "message"), [
    (["--task", "custom", "task.answer_column=anwser"], "no row has the column 'anwser' of task.answer_column"),
    (["--task", "custom", "task.answer_column=anwser"], "nearest to 'anwser' is 'answer'"),
    (["--task", "custom", "task.answer_column=nothing"], "none of 3 rows has a reference that can be scored (the"),
    (["--task", "arithmetic", "task.columns={problem: question}"], "none of 3 rows has a reference that can be scored"),
])  # fmt: skip
def test_rows_without_references_are_refused_before_generation(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"question": "计算 1 + 1 等于多少？", "answer": "2", "nothing": ""}
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(3)))
    monkeypatch.setattr(
        "lotune.stages.evaluate_model.load_for_generation", lambda *_: pytest.fail("a model was loaded")
    )
    result = call("evaluate", "--model", small_base, "--data", file, *words, status=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 3


@pytest.mark.slow
def test_rouge_l_reports_how_it_tokenises(small_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"question": f"Who {n}?", "answer": "the river"}) + "\n" for n in range(4)))
    words = ("evaluate", "--model", small_base, "--task", "custom", "--data", file, "task.scorer=rouge-l")
    result = json.loads(call(*words, "task.max_new_tokens=4", "--json").stdout)
    assert result["rouge_l"]["beta"] == 1.0
    assert "characters" in result["rouge_l"]["segments"]
    assert result["intervals"]["rouge_l"] == result["interval"]
    assert "judged by rouge-l (beta 1; lower-case words" in call(*words, "task.max_new_tokens=4").stdout


def test_test_rows_without_references_stop_a_run_before_training(small_base: Path, tmp_path: Path) -> None:
    for name, answer in (("train", "2"), ("test", "")):
        rows = [{"question": f"{name}, {n} + 1?", "answer": answer} for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"base: {{model: {small_base}}}\ntask: {{name: custom, prompt: '{{question}}'}}\n"
        "retention: {rows: 2, replay: {rows: 0}, validation_rows: 0}\n"
        f"data: {{train: {tmp_path / 'train.jsonl'}, test: {tmp_path / 'test.jsonl'}, validation_rows: 2}}\n"
    )
    output = call("prepare", recipe, f"runs={tmp_path / 'runs'}", status=2).stderr
    assert f"{tmp_path / 'test.jsonl'}: none of 8 rows has a reference that can be scored" in output
