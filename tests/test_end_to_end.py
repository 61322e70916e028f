"""The whole of it through the command line: from a recipe to a scorecard, on a base model of two small layers."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import processes
import pytest
from command_line import RECIPE, call


def digests(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder that a finished run must leave alone."""
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name in ("environment.json", ".lock", "report.html", "report.md"):  # a report shows the environment
        names.pop(name, None)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def recipe(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(RECIPE.format(base=small_base))
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which the recipe has been run; tests read it and change nothing."""
    runs = tmp_path_factory.mktemp("finished")
    result = call("run", recipe, f"runs={runs}")
    assert "changed:" not in result.stderr
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def test_the_scorecard(finished: Path) -> None:
    card = json.loads((finished / "small" / "scorecard.json").read_text())
    target = card["target"]
    assert {"task", "metric", "value", "base_value", "interval", "n", "by_kind"} <= set(target)
    assert (target["task"], target["metric"], target["n"]) == ("arithmetic", "accuracy", 6)
    assert 0 <= target["interval"][0] <= target["value"] <= target["interval"][1] <= 1
    assert sum(kind["n"] for kind in target["by_kind"].values()) == 6
    lines = card["retention"]
    assert {"contest_f1", "contest_em"} <= {line["metric"] for line in lines}
    assert all({"task", "metric", "base", "tuned", "retained", "threshold", "passed"} <= set(line) for line in lines)
    parameters = card["parameters"]
    assert parameters["trainable"] == 2 * 2 * (32 + 32 + 32 + 16)  # layers · rank · (q: in + out, v: in + out)
    assert parameters["ratio"] == pytest.approx(parameters["trainable"] / parameters["total"])
    assert parameters["convention"] == "measured"
    assert card["score"]["rule"] == "phase1"
    assert card["score"]["value"] == pytest.approx(0.3 * (1 - parameters["ratio"]) + 0.7 * target["value"])
    assert [item["name"] for item in card["checkpoints"]] == ["step-000003", "step-000005"]
    assert card["chosen_checkpoint"] in {"step-000003", "step-000005"}
    assert {check["name"] for check in card["checks"]} == {"parameters", "supervision", "merge"}
    assert all(check["passed"] for check in card["checks"])
    assert card["valid"] is False  # a random base has nothing to keep


def test_the_run_folder(finished: Path) -> None:
    folder = finished / "small"
    chosen = json.loads((folder / "scorecard.json").read_text())["chosen_checkpoint"]
    for task, rows in (("arithmetic", 6), ("reading", 4)):
        for model in ("base", chosen):
            lines = records(folder / "predictions" / task / f"{model}.jsonl")
            assert len({line["id"] for line in lines}) == len(lines) == rows
            assert all(
                {"id", "prompt", "answer", "extracted", "reference", "correct", "scores", "kind"} <= set(item)
                for item in lines
            )
    steps = [line for line in records(folder / "metrics.jsonl") if "loss" in line]
    assert [step["number"] for step in steps] == [1, 2, 3, 4, 5]
    validated = [line["validation"] for line in records(folder / "metrics.jsonl") if "validation" in line]
    assert [item["step"] for item in validated] == [3, 5]
    counts = json.loads((folder / "data" / "counts.json").read_text())
    assert counts["rows"]["read"] == 44
    assert counts["rows"]["kept"] == counts["tokens"]["rows"] == 40 - counts["rows"]["overlap"]["removed"]
    assert 0 < counts["tokens"]["supervised"] < counts["tokens"]["tokens"]
    first = counts["tokens"]["first"]
    assert first.count("⟦") == first.count("⟧") == 1
    assert first.partition("⟦")[0].endswith("### Response:")
    assert first.endswith("<|endoftext|>⟧")
    merged = [path.parent.name for path in folder.glob("checkpoints/*/merged")]
    assert merged == [chosen]
    assert not list(folder.rglob("*.tmp"))


def test_the_report_is_made_from_the_folder_alone(finished: Path, tmp_path: Path) -> None:
    written = {name: (finished / "small" / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")}
    assert all("Not valid" in text for text in written.values())
    copy = shutil.copytree(finished / "small", tmp_path / "elsewhere" / "small")
    for name in written:
        (copy / name).unlink()
    assert str(copy / "report.html") in call("report", copy).stderr
    again = {name: (copy / name).read_text(encoding="utf-8") for name in written}
    assert {name: text.replace(str(copy), str(finished / "small")) for name, text in again.items()} == written


@pytest.mark.oracle
def test_adapter_and_merged_model_load_elsewhere_and_agree(finished: Path, small_base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished / "small"
    checkpoint = folder / "checkpoints" / json.loads((folder / "scorecard.json").read_text())["chosen_checkpoint"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "merged")
    line = records(folder / "predictions" / "arithmetic" / f"{checkpoint.name}.jsonl")[0]
    ids = tokenizer(line["prompt"], return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32).eval()
    merged = AutoModelForCausalLM.from_pretrained(checkpoint / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(checkpoint / "adapter")).eval()(ids).logits
        after = merged(ids).logits
        answer = merged.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert (adapted - after).abs().max() < 1e-4
    assert (before - after).abs().max() > 1e-2
    text = tokenizer.decode(answer, skip_special_tokens=True)
    assert text.split("\n###")[0] == line["answer"]


def test_a_repeated_command_skips_all_stages(finished: Path, recipe: Path) -> None:
    before = digests(finished / "small")
    times = {path: path.stat().st_mtime_ns for path in (finished / "small").rglob("*.safetensors")}
    result = call("run", recipe, f"runs={finished}")
    assert digests(finished / "small") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for word in ("changed:", "preparing", "tuning", "merging", "estimate"):
        assert word not in result.stderr
    assert "arithmetic" in result.stdout


def test_a_changed_learning_rate_redoes_tuning_and_evaluation_only(runs: Path, recipe: Path) -> None:
    def rates() -> list[float]:
        return [line["learning_rate"] for line in records(runs / "small" / "metrics.jsonl") if "loss" in line]

    before, slow = digests(runs / "small"), rates()
    result = call("run", recipe, f"runs={runs}", "tune.learning_rate=0.02")
    assert "changed: tune.learning_rate: 0.01 -> 0.02 (invalidates tune, evaluate)\n" in result.stderr
    assert "preparing" not in result.stderr
    after = digests(runs / "small")
    changed = {name.split("/")[0] for name in before if before[name] != after.get(name)}
    files = {"metrics.jsonl", "checkpoints", "training.json", "tuning.json", "validation", "stages.json", "recipe.yaml"}
    assert files <= changed
    assert "data" not in changed
    assert rates() == pytest.approx([2 * rate for rate in slow])


def test_merging_more_checkpoints_does_not_train_again(runs: Path, recipe: Path) -> None:
    trained = (runs / "small" / "metrics.jsonl").read_bytes()
    result = call(
        "tune", recipe, f"runs={runs}", "checkpoints.merged=all", "tune.max_batch_tokens=999", "tune.compile=off"
    )
    assert 'changed: checkpoints.merged: "auto" -> "all" (invalidates merge, evaluate)\n' in result.stderr
    assert "changed: tune.max_batch_tokens: 16384 -> 999 (nothing finished depends on it)\n" in result.stderr
    assert "estimate" not in result.stderr
    assert (runs / "small" / "metrics.jsonl").read_bytes() == trained
    assert len(list((runs / "small").glob("checkpoints/*/merged/model.safetensors"))) == 2


def test_another_score_rule_generates_nothing_again(runs: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predictions() -> dict[str, list[str]]:
        files = (runs / "small" / "predictions").rglob("*.jsonl")
        return {str(path): sorted(path.read_text().splitlines()) for path in files}

    before, answers = digests(runs / "small"), predictions()
    monkeypatch.setattr("lotune.generate.engine.Engine.stream", None)
    result = call("run", recipe, f"runs={runs}", "score.rule=phase2")
    assert 'changed: score.rule: "phase1" -> "phase2" (invalidates evaluate)\n' in result.stderr
    after = digests(runs / "small")
    changed = {name for name in before if before[name] != after[name] and not name.startswith("predictions")}
    assert changed == {"recipe.yaml", "scorecard.json", "stages.json"}
    assert predictions() == answers
    assert json.loads((runs / "small" / "scorecard.json").read_text())["score"]["rule"] == "phase2"


def answered(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The id and the answer of every line below a folder, by file."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.jsonl")}
    return {name: sorted((line["id"], line["answer"]) for line in records(path)) for name, path in files.items()}


def weights(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and age of every file of weights below a folder."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*.safetensors")
    }


def test_another_scorer_scores_again_without_training_or_generation(
    runs: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "small"
    before, trained = weights(folder), (folder / "metrics.jsonl").read_bytes()
    answers = {name: answered(folder / name) for name in ("predictions", "validation")}
    merged = (folder / "merging.json").read_bytes()
    monkeypatch.setattr("lotune.generate.engine.Engine.stream", None)
    monkeypatch.setattr("lotune.stages.tuning._train", None)
    monkeypatch.setattr("lotune.stages.merging.merge_and_check", None)
    output = call("run", recipe, f"runs={runs}", "task.scorer=relative:0.5").stderr
    assert (
        'changed: task.scorer: "significant:5" -> "relative:0.5" (invalidates prepare, validate, evaluate)\n' in output
    )
    assert weights(folder) == before
    assert (folder / "metrics.jsonl").read_bytes() == trained
    assert (folder / "merging.json").read_bytes() == merged
    assert {name: answered(folder / name) for name in answers} == answers
    assert json.loads((folder / "scorecard.json").read_text())["target"]["scorer"] == "relative:0.5"
    of_target = [*(folder / "predictions" / "arithmetic").glob("*.jsonl"), *(folder / "validation").glob("*.jsonl")]
    assert {line["scorer"] for path in of_target for line in records(path)} == {"relative:0.5"}


def test_another_scorer_may_choose_another_checkpoint(runs: Path, recipe: Path) -> None:
    folder = runs / "small"
    first, second = (folder / "validation" / f"step-{step:06d}.jsonl" for step in (3, 5))
    keys = [example["references"][0] for example in records(folder / "data" / "validation.jsonl")]
    right = {first: [*keys[:-1], "none"], second: [f"{key}.0001" if "." not in key else f"{key}1" for key in keys]}
    for path, texts in right.items():  # the first is exact but for one row, the second nearly right everywhere
        lines = [{**line, "answer": text} for line, text in zip(records(path), texts, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stages = json.loads((folder / "stages.json").read_text())
    del stages["validate"]  # as if it had not been finished: then no digest tells that the answers are others
    (folder / "stages.json").write_text(json.dumps(stages))
    before = weights(folder / "checkpoints")
    chosen = {}
    for judge in ("exact", "relative:0.5"):
        call("tune", recipe, f"runs={runs}", f"task.scorer={judge}", "checkpoints.merged=none")
        tuning = json.loads((folder / "tuning.json").read_text())
        chosen[judge] = tuning["chosen"], [item["value"] for item in tuning["checkpoints"]]
    assert chosen["exact"][0] == "step-000003"
    assert chosen["relative:0.5"] == ("step-000005", [0.75, 1.0])
    assert weights(folder / "checkpoints") == before


def test_longer_answers_are_generated_without_training(
    runs: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "small"
    adapters = {name: age for name, age in weights(folder).items() if "adapter" in name}
    trained = (folder / "metrics.jsonl").read_bytes()
    monkeypatch.setattr("lotune.stages.tuning._train", None)
    call("run", recipe, f"runs={runs}", "task.max_new_tokens=5")
    assert {name: age for name, age in weights(folder).items() if "adapter" in name} == adapters
    assert (folder / "metrics.jsonl").read_bytes() == trained
    for path in (folder / "validation").glob("*.jsonl"):
        assert {line["protocol"] for line in records(path)} == {"greedy, 5 new tokens at most"}


def test_a_lost_answer_of_the_validation_is_generated_again(
    runs: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "small"
    before, adapters = answered(folder / "validation"), weights(folder)
    path = folder / "validation" / "step-000003.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    (folder / "validation" / "step-000005.jsonl").unlink()
    monkeypatch.setattr("lotune.stages.tuning._train", None)
    call("run", recipe, f"runs={runs}")
    assert answered(folder / "validation") == before
    assert weights(folder) == adapters


def test_an_altered_prediction_is_reported_and_generated_again(runs: Path, recipe: Path) -> None:
    folder = runs / "small"
    card = (folder / "scorecard.json").read_bytes()
    path = folder / "predictions" / "arithmetic" / "base.jsonl"
    before, complete = answered(folder / "predictions"), path.read_text()
    path.write_text("".join(json.dumps({**line, "correct": True}) + "\n" for line in records(path)))
    result = call("report", folder, status=1)
    clause = "predictions/arithmetic/base.jsonl: content changed"
    assert f"has changed since it was finished: {clause}\n" in result.stderr
    assert clause in (folder / "report.html").read_text(encoding="utf-8")
    assert clause.replace("_", "\\_") in (folder / "report.md").read_text(encoding="utf-8")
    output = call("run", recipe, f"runs={runs}").stderr
    assert "predictions/arithmetic/base.jsonl has changed since it was written: its rows are answered again" in output
    assert (answered(folder / "predictions"), (folder / "scorecard.json").read_bytes()) == (before, card)
    assert sorted(path.read_text().splitlines()) == sorted(complete.splitlines())
    call("report", folder)
    shutil.rmtree(folder / "checkpoints")
    call("report", folder)
    (folder / "scorecard.json").write_bytes(card.replace(b'"lost": ', b'"lost": 1'))
    assert "scorecard.json: content changed" in call("report", folder, status=1).stderr


def test_a_lost_checkpoint_is_made_again(runs: Path, recipe: Path) -> None:
    card = (runs / "small" / "scorecard.json").read_bytes()
    losses = [line["loss"] for line in records(runs / "small" / "metrics.jsonl") if "loss" in line]
    shutil.rmtree(runs / "small" / "checkpoints")
    call("run", recipe, f"runs={runs}")
    assert [line["loss"] for line in records(runs / "small" / "metrics.jsonl") if "loss" in line] == losses
    assert (runs / "small" / "scorecard.json").read_bytes() == card


def test_each_stage_alone(recipe: Path, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    call("prepare", recipe, f"runs={tmp_path}")
    assert {path.name for path in folder.iterdir()} >= {"data", "recipe.yaml", "environment.json", "stages.json"}
    assert not (folder / "checkpoints").exists()
    data = digests(folder / "data")
    assert data == digests(finished / "small" / "data")
    call("tune", recipe, f"runs={tmp_path}")
    assert digests(folder / "data") == data
    assert len(list((folder / "checkpoints").iterdir())) == 2
    assert not (folder / "scorecard.json").exists()
    weights = digests(folder / "checkpoints")
    assert weights == digests(finished / "small" / "checkpoints")
    call("evaluate", recipe, f"runs={tmp_path}")
    assert digests(folder / "checkpoints") == weights
    assert (folder / "scorecard.json").read_bytes() == (finished / "small" / "scorecard.json").read_bytes()


def test_a_dry_run_prepares_and_estimates(recipe: Path, tmp_path: Path) -> None:
    result = call("run", recipe, f"runs={tmp_path}", "--dry-run")
    assert "estimate: 5 steps" in result.stderr
    assert (tmp_path / "small" / "data" / "counts.json").exists()
    assert {path.name for path in (tmp_path / "small").iterdir()} & {
        "checkpoints",
        "metrics.jsonl",
        "tuning.json",
    } == set()
    result = call("tune", recipe, f"runs={tmp_path}", "--dry-run", "--json")
    assert json.loads(result.stdout)["estimate"]["steps"] == 5


def test_a_refused_command_and_a_dry_run_leave_a_finished_run_unchanged(
    runs: Path, recipe: Path, tmp_path: Path
) -> None:
    folder = runs / "small"
    before = digests(folder), (folder / "environment.json").read_bytes()
    words = ("run", recipe, f"runs={runs}")
    output = call(*words, "--dry-run", "data.generated_rows=30", "adapter.rank=3").stderr
    assert "changed: data.generated_rows: 40 -> 30 (invalidates prepare" in output
    assert "preparing the rows in a temporary folder" in output
    assert "rows: 34 read" in output
    assert "estimate: 4 steps" in output
    call(*words, "--dry-run", "adapter.rank=3")
    call(*words, "checkpoints.count=900", status=2)
    call(*words, "adapter.target_modules=nothing", status=2)
    (tmp_path / "odd.jsonl").write_text('{"height": 1}\n')
    call(*words, f"data.train={tmp_path / 'odd.jsonl'}", status=2)
    assert (digests(folder), (folder / "environment.json").read_bytes()) == before
    assert [path.name for path in runs.iterdir()] == ["small"]
    call("report", folder)


def test_a_changed_recipe_is_the_runs_once_its_work_begins(runs: Path, recipe: Path) -> None:
    """Another recipe in a finished run's folder is named and then followed; until its stages are done, no report is."""
    folder = runs / "small"
    output = call("tune", recipe, f"runs={runs}", "tune.learning_rate=0.02").stderr
    assert "changed: tune.learning_rate: 0.01 -> 0.02 (invalidates tune, evaluate)" in output
    assert "learning_rate: 0.02" in (folder / "recipe.yaml").read_text()
    assert "was tested with other settings: tune.learning_rate: 0.01 -> 0.02" in call("report", folder, status=2).stderr
    more = ("tune", recipe, f"runs={runs}", "tune.learning_rate=0.02", "evaluate.max_batch_tokens=4096")
    assert "changed: evaluate.max_batch_tokens" in call(*more).stderr


def test_retention_is_watched_at_each_checkpoint(runs: Path, recipe: Path) -> None:
    folder = runs / "small"
    watched = folder / "validation" / "retention"
    assert {path.stem for path in watched.iterdir()} == {"base", "step-000003", "step-000005"}
    counts = json.loads((folder / "data" / "counts.json").read_text())
    assert counts["retention_validation"] == len(records(watched / "base.jsonl")) == 3
    tuning = (folder / "tuning.json").read_text()
    # The random base has nothing to retain, so no checkpoint can pass.
    assert [one["gate_passed"] for one in json.loads(tuning)["checkpoints"]] == [False, False]
    assert not (folder / "repair").exists(), "and there is nothing to repair"
    before = {path.name: sorted(path.read_text().splitlines()) for path in watched.iterdir()}
    shutil.rmtree(watched)
    call("run", recipe, f"runs={runs}", "retention.min_retained=0.8")
    again = {path.name: sorted(path.read_text().splitlines()) for path in watched.iterdir()}
    assert again == before, "lost answers are given again"
    assert (folder / "tuning.json").read_text() == tuning


def test_under_json_stdout_is_json(finished: Path, recipe: Path) -> None:
    result = call("run", recipe, f"runs={finished}", "--json")
    assert json.loads(result.stdout) == json.loads((finished / "small" / "scorecard.json").read_text())
    assert json.loads(call("prepare", recipe, f"runs={finished}", "--json").stdout)["rows"]["read"] == 44


def test_all_checkpoints_can_be_merged_and_tested(recipe: Path, tmp_path: Path) -> None:
    words = ("evaluate.checkpoints=all", "checkpoints.merged=all", "data.test_rows=3", "retention.rows=2")
    call("run", recipe, f"runs={tmp_path}", *words)
    folder = tmp_path / "small"
    card = json.loads((folder / "scorecard.json").read_text())
    assert all(point["value"] is not None and point["score"] is not None for point in card["checkpoints"])
    assert len(list(folder.glob("checkpoints/*/merged/model.safetensors"))) == 2
    assert len([check for check in card["checks"] if check["name"] == "merge"]) == 2
    names = {path.stem for path in (folder / "predictions" / "arithmetic").iterdir()}
    assert names == {"base", "step-000003", "step-000005"}


def test_without_merged_models_the_answers_are_the_same(recipe: Path, finished: Path, tmp_path: Path) -> None:
    call("run", recipe, f"runs={tmp_path}", "checkpoints.merged=none")
    assert not list(tmp_path.glob("small/checkpoints/*/merged"))
    card, other = (json.loads((item / "small" / "scorecard.json").read_text()) for item in (tmp_path, finished))
    assert (card["target"], card["retention"]) == (other["target"], other["retention"])


def test_accumulation_is_the_large_batch(recipe: Path, finished: Path, tmp_path: Path) -> None:
    call(
        "tune",
        recipe,
        f"runs={tmp_path}",
        "tune.micro_batch_rows=2",
        "tune.gradient_accumulation_steps=4",
        "checkpoints.merged=none",
    )
    actual, large = (
        [line for line in records(item / "small" / "metrics.jsonl") if "loss" in line] for item in (tmp_path, finished)
    )
    assert [step["loss"] for step in actual] == pytest.approx([step["loss"] for step in large], rel=1e-4)
    assert [step["supervised"] for step in actual] == [step["supervised"] for step in large]


def write_rows(path: Path, numbers: range, last: str = "") -> Path:
    rows = [{"problem": f"计算 {n} + 7 等于多少？", "solution": f"{n} + 7 = {n + 7}"} for n in numbers]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join([*lines, *([last] if last else [])]) + "\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_an_edited_training_file_redoes_everything(recipe: Path, tmp_path: Path) -> None:
    """The file's name stays; what was answered by the model of the old rows is not used for the new one."""
    file = write_rows(tmp_path / "mine.jsonl", range(30))
    fixed = write_rows(tmp_path / "test.jsonl", range(100, 104))
    words = (recipe, f"runs={tmp_path}", f"data.train={file}", f"data.test={fixed}", "retention.rows=2")
    call("run", *words)
    folder = tmp_path / "small"
    counts = json.loads((folder / "data" / "counts.json").read_text())["rows"]
    assert (counts["read"], counts["duplicates"], counts["kept"]) == (30, 0, 26)
    first = digests(folder)
    again = json.dumps({"problem": "计算 3 + 7 等于多少？", "solution": "3 + 7 = 10"}, ensure_ascii=False)
    asked = json.dumps({"problem": "计算 102 + 7  等于多少？", "solution": "102 + 7 = 109"}, ensure_ascii=False)
    write_rows(file, range(30), f"{again}\n{asked}")
    result = call("run", *words)
    assert "changed: data.train" in result.stderr
    assert "(invalidates prepare, tune, evaluate)" in result.stderr
    counts = json.loads((folder / "data" / "counts.json").read_text())["rows"]
    assert (counts["read"], counts["duplicates"], counts["kept"]) == (32, 1, 26)
    met = {name: (one["exact"], one["normalised"]) for name, one in counts["overlap"]["sets"].items()}
    assert met["test"] == (0, 1)
    assert "1 training rows were removed" in (folder / "scorecard.json").read_text()
    assert digests(folder)["predictions/inputs.json"] != first["predictions/inputs.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoints.count=9"], "9 checkpoints in 5 steps"),
        (["data.train=missing.jsonl"], "missing.jsonl"),
        (["retention.data=missing.json"], "missing.json"),
        (["base.model=./nowhere"], "./nowhere"),
        (["tune.learning_rate=-1"], "tune.learning_rate"),
        (["tune.lerning_rate=1"], "tune.lerning_rate"),
        (["data.max_length=8"], "every row is longer than 8 tokens"),
        (["task.scorer=roughly"], "task.scorer"),
        (["adapter.target_modules=[nothing]"], "nothing"),
    ],
)
def test_bad_input_ends_with_2(recipe: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = call("run", recipe, f"runs={tmp_path}", *words, status=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert not list(tmp_path.glob("*/checkpoints"))


def test_a_row_without_scored_tokens_is_named(recipe: Path, tmp_path: Path) -> None:
    file = write_rows(
        tmp_path / "mine.jsonl", range(20), json.dumps({"problem": "计算 1 + 1 等于多少？", "solution": ""})
    )
    result = call("prepare", recipe, f"runs={tmp_path}", f"data.train={file}", status=2)
    assert "mine.jsonl:21" in result.stderr
    result = call("prepare", recipe, f"runs={tmp_path}", f"data.train={file}", "data.on_error=skip", "--json")
    assert json.loads(result.stdout)["rows"]["malformed"] == 1


def test_another_tokeniser_in_the_same_folder_prepares_again(recipe: Path, small_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    words = ("prepare", recipe, f"runs={tmp_path}", f"base.model={base}")
    call(*words)
    before = digests(tmp_path / "small" / "data")
    state = json.loads((base / "tokenizer.json").read_text())
    state["model"]["merges"] = state["model"]["merges"][:1]
    (base / "tokenizer.json").write_text(json.dumps(state))
    assert "preparing" in call(*words).stderr
    assert digests(tmp_path / "small" / "data") != before


def test_evaluate_a_model(finished: Path, small_base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", range(6), json.dumps({"problem": "What is 1/2?", "solution": "none"}))
    words = ("evaluate", "--model", small_base, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=8")
    result = call(*words, "--out", tmp_path / "predictions.jsonl", "--json")
    returned = json.loads(result.stdout)
    assert (returned["n"], returned["unjudgeable"]) == (6, 1)
    assert set(returned["by_kind"]) == {"add", "english"}
    assert 0 <= returned["interval"][0] <= returned["metrics"]["accuracy"] <= returned["interval"][1] <= 1
    assert len(records(tmp_path / "predictions.jsonl")) == 7
    assert "accuracy" in call(*words, "--limit", 3, "task.scorer=exact").stdout
    merged = next(finished.glob("small/checkpoints/*/merged"))
    before = (tmp_path / "predictions.jsonl").read_bytes()
    refused = call("evaluate", "--model", merged, *words[3:], "--out", tmp_path / "predictions.jsonl", status=2)
    assert "predictions.jsonl: holds answers of another model or other settings, or" in refused.stderr
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    call(*words, "--out", tmp_path / "predictions.jsonl")  # its own are kept
    assert sorted((tmp_path / "predictions.jsonl").read_bytes().splitlines()) == sorted(before.splitlines())
    assert "pip install '.[vllm]'" in call(*words, "evaluate.engine=vllm", status=2).stderr
    result = call("evaluate", "--model", merged, "--task", "reading", "--limit", 2, "--json")
    assert {"contest_f1", "contest_em", "squad_f1", "squad_em"} <= set(json.loads(result.stdout)["metrics"])
    assert "evaluate.max_batch_tokens is 0" in call(*words, "evaluate.max_batch_tokens=0", status=2).stderr


@pytest.mark.parametrize(("task", "suffix", "form"), [
    ("arithmetic", "jsonl", "rows"), ("arithmetic", "jsonl", "conversation"), ("reading", "json", "rows"),
])  # fmt: skip
def test_sample(tmp_path: Path, task: str, suffix: str, form: str) -> None:
    from lotune.tasks.registry import build_task, task_settings

    files = [tmp_path / f"{number}.{suffix}" for number in range(3)]
    for file, seed in zip(files, (4, 4, 5), strict=True):
        call("sample", "--task", task, "--rows", 30, "--seed", seed, "--form", form, "--out", file)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    content = files[0].read_bytes()
    output = call("sample", "--task", task, "--rows", 30, "--seed", 5, "--form", form, "--out", files[0], status=2)
    assert "already exists" in output.stderr
    assert files[0].read_bytes() == content
    call("sample", "--task", task, "--rows", 30, "--seed", 4, "--form", form, "--out", files[2], "--force")
    assert files[2].read_bytes() == content
    known = build_task(task_settings(task))
    examples = list(known.examples(known.read(files[0]).rows, training=False))
    assert len(examples) == 30
    assert all(known.judge(example, example.target).correct for example in examples)
    output = call("sample", "--task", task, "--out", tmp_path / "x", "--mixture", "odd", status=2).stderr
    assert ("raw" if task == "arithmetic" else "mixture is not a setting") in output


def test_init_writes_a_recipe_that_runs(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "my rows #1: sums.jsonl", range(12))
    result = call("init", "my rows #1: sums.jsonl", "--out", "first.yaml", "--json")
    assert json.loads(result.stdout)["rows"] == 12
    assert "⟦" in result.stderr
    assert "lotune run 'my rows #1: sums.yaml'" in call("init", "my rows #1: sums.jsonl").stderr
    call("init", "my rows #1: sums.jsonl", "--out", "first.yaml", status=2)
    result = call("run", "first.yaml", f"base.model={small_base}", "--dry-run", "--json")
    assert json.loads(result.stdout)["counts"]["rows"]["read"] == 12
    content = Path("my rows #1: sums.jsonl").read_bytes()
    output = call("init", "my rows #1: sums.jsonl", "--out", "my rows #1: sums.jsonl", "--force", status=2).stderr
    assert "is an input, and would be overwritten" in output
    assert Path("my rows #1: sums.jsonl").read_bytes() == content
    call("sample", "--task", "reading", "--rows", 5, "--out", "passages.json")
    call("init", "passages.json")
    assert "name: reading" in (tmp_path / "passages.yaml").read_text()
    (tmp_path / "odd.csv").write_text("height,width\n1,2\n")
    assert "height" in call("init", "odd.csv", status=2).stderr
    call("init", "nothing.jsonl", status=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_an_interrupted_run_resumes(recipe: Path, tmp_path: Path) -> None:
    """Ctrl-C while the adapter is trained: status 130 and the command that goes on, which then finishes."""
    words = ("run", recipe, f"runs={tmp_path}", "tune.steps=12", "checkpoints.count=1")
    process = processes.lotune(*words, hold_at=("metrics.jsonl", 3))
    process.stop(signal.SIGINT)
    ended = process.result()
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Resume with: lotune run" in ended.stderr
    metrics = tmp_path / "small" / "metrics.jsonl"
    assert len(records(metrics)) == 3
    assert "resuming after step 3\n" in call(*words).stderr
    numbers = [line["number"] for line in records(metrics) if "number" in line]
    assert numbers == list(range(1, 13))
    assert (tmp_path / "small" / "scorecard.json").exists()
    assert not (tmp_path / "small" / "states").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_evaluation_generates_only_missing_answers(
    recipe: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lotune.evaluate import predict

    words = ("run", recipe, f"runs={tmp_path}", "data.test_rows=30")
    words = (*words, "evaluate.max_batch_tokens=256")  # two rows side by side
    process = processes.lotune(*words, hold_at=("predictions/arithmetic/base.jsonl", 7))
    process.stop(number)
    ended = process.result()
    assert ended.returncode == (130 if number == signal.SIGINT else -number), ended.stderr
    assert "Traceback" not in ended.stderr
    answers = tmp_path / "small" / "predictions" / "arithmetic" / "base.jsonl"
    stored_lines = answers.read_bytes().split(b"\n")[:-1]
    assert len(stored_lines) == 7
    assert not (tmp_path / "small" / "scorecard.json").exists()
    asked: Counter[str] = Counter()
    answer = predict._answer

    def counting(task: Any, examples: Any, *rest: Any) -> Any:
        asked.update(example.id for example, _ in examples if task.name == "arithmetic")
        return answer(task, examples, *rest)

    monkeypatch.setattr(predict, "_answer", counting)
    call(*words)
    known = {json.loads(line)["id"] for line in stored_lines}
    assert len(asked) == 30
    assert {id for id, times in asked.items() if times == 1} == known, "asked of the tuned model alone"
    assert set(asked.values()) == {1, 2}
    assert set(stored_lines) <= set(answers.read_bytes().split(b"\n"))
    assert (tmp_path / "small" / "scorecard.json").exists()


@pytest.mark.slow
def test_the_command_in_a_report_repeats_the_run(finished: Path, runs: Path) -> None:
    path = runs / "small" / "recipe.yaml"
    path.write_text(path.read_text().replace(str(finished), str(runs)))
    call("report", runs / "small")
    command = re.search(r"^lotune (run .* name=small-again)$", (runs / "small" / "report.md").read_text(), re.MULTILINE)
    assert command is not None
    call(*shlex.split(command[1]))
    cards = [(runs / name / "scorecard.json").read_bytes() for name in ("small", "small-again")]
    assert cards[0] == cards[1]


@pytest.mark.slow
def test_the_installed_command(recipe: Path, finished: Path) -> None:
    command = [sys.executable, "-m", "lotune", "run", str(recipe), f"runs={finished}", "--json"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["target"]["task"] == "arithmetic"
    assert "Warning" not in completed.stderr
