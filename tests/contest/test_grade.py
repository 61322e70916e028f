"""Marks of answers, of exams and of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from safetensors.numpy import save_file

from lotune.contest.models import GradedCheckpoint, best_checkpoint, grade_checkpoint
from lotune.contest.scores import score
from lotune.evaluate.retention import gate
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.task import Score

KEYS = [
    {"problem": "计算 1 + 1 等于多少？", "solution": "1 + 1 = 2", "id": "a"},
    {"problem": "计算 2 * 3 等于多少？", "solution": "2 * 3 = 6", "id": "b"},
    {"problem": "Prove it.", "solution": "by induction", "id": "c"},
    {"problem": "计算 5 - 9 等于多少？", "solution": "5 - 9 = -4", "id": "d"},
]

REVERSED = ("-4", "", "7", "2")
"""Answers to the keys from the last to the first."""


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    )
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "key.jsonl", KEYS)


def marks(answers: Path, key: Path, *words: object) -> dict[str, Any]:
    result = call("grade", "contest", answers, "--task", "arithmetic", "--key", key, *words, "--json")
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("answers.txt", ["The answer is 2", "7", "x", "final, 5 - 9 = -4"]),
        ("answers.jsonl", [{"response": text} for text in ("2", "7", "x", "-4")]),
        ("answers.jsonl", [{"id": id, "answer": text} for id, text in zip("dcba", REVERSED, strict=True)]),
        ("answers.jsonl", [{"id": f"key.jsonl:{n}", "answer": t} for n, t in zip((4, 3, 2, 1), REVERSED, strict=True)]),
    ],
)  # fmt: skip
def test_answers_of_any_form_are_marked_alike(key: Path, tmp_path: Path, name: str, rows: list[Any]) -> None:
    result = marks(write_lines(tmp_path / name, rows), key, "--ratio", 0.001)
    assert (result["right"], result["n"], result["unjudgeable"], result["rows"]) == (2, 3, 1, 4)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert (result["scorer"], result["rule"]) == ("significant:5", "phase1")
    assert result["score"] == pytest.approx(score("phase1", 0.001, 2 / 3))
    assert result["by_kind"]["multiply"] == {"right": 0, "n": 1, "accuracy": 0.0}


def test_an_array_of_texts_and_another_rule(key: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(["2.000001", "6", "x", "-4"]))
    assert marks(answers, key)["right"] == 2
    result = marks(answers, key, "--scorer", "decimals:2", "--rule", "phase2", "--ratio", 0.01)
    assert (result["right"], result["scorer"]) == (3, "decimals:2")
    assert result["score"] == pytest.approx(0.3 * 0.9 + 0.7)
    assert marks(answers, key)["score"] is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["2"], "1 answers to 4 keys"),
        ([{"id": "z", "answer": "2"}], "1 of 1 ids are unknown, the first is 'z'"),
        ([{"id": "a", "answer": "2"}] * 4, "two answers to key.jsonl:1"),
        ([{"id": "a", "answer": "2"}, {"answer": "3"}, {"answer": "3"}, {"answer": "3"}], "has no id, and others have"),
        ([{"text": "2"}], "holds no answer (it has text)"),
        (["{not json"], "is not JSON"),
    ],
)
def test_answers_that_do_not_fit(key: Path, tmp_path: Path, rows: list[Any], words: str) -> None:
    answers = write_lines(tmp_path / ("answers.txt" if rows == ["2"] else "answers.jsonl"), rows)
    result = call("grade", "contest", answers, "--task", "arithmetic", "--key", key, status=2)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) <= 3


def test_keys_of_the_records(tmp_path: Path) -> None:
    rows = [
        {"prompt": "?", "response": "The right option is B.", "key": "B"},
        {"prompt": "?", "response": "The right option is C.", "key": "A"},
        {"prompt": "?", "response": "The right option is C.", "key": "T"},
    ]
    answers = write_lines(tmp_path / "predictions.jsonl", rows)
    for words in ((), ("--key", answers)):
        result = json.loads(call("grade", "contest", answers, "--task", "choice", *words, "--json").stdout)
        assert (result["right"], result["n"], result["unjudgeable"]) == (1, 2, 1)
        assert result["rule"] == "phase2"
    write_lines(answers, [{"response": "A"}])
    assert "has no key" in call("grade", "contest", answers, "--task", "choice", status=2).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--task", "sums"),
        ("--task", "arithmetic", "--scorer", "letter"),
        ("--task", "choice", "--scorer", "likelihood:letter"),
        ("--task", "arithmetic", "--base", "nano"),
        ("--task", "arithmetic", "--data", "rows.jsonl"),
        ("--task", "arithmetic", "--ratio", 0.1, "--rule", "phase3"),
    ],
)
def test_options_that_cannot_be_used(key: Path, tmp_path: Path, words: tuple[object, ...]) -> None:
    answers = write_lines(tmp_path / "answers.txt", ["2", "6", "x", "-4"])
    extra = () if words[1] == "choice" else ("--key", key)
    call("grade", "contest", answers, *words, *extra, status=2)


@pytest.mark.oracle
@pytest.mark.parametrize(("checkpoint", "right"), [(0, 1328), (3, 1748)])
def test_the_published_predictions(reference_data: Path, checkpoint: int, right: int) -> None:
    path = reference_data / "contest" / f"choice-predictions-checkpoint-{checkpoint}.jsonl"
    result = json.loads(call("grade", "contest", path, "--task", "choice", "--json").stdout)
    assert (result["right"], result["n"], result["accuracy"]) == (right, 2000, right / 2000)


@pytest.mark.oracle
def test_real_keys_answer_themselves(reference_data: Path, tmp_path: Path) -> None:
    key = reference_data / "contest" / "math-300.jsonl"
    rows = [json.loads(line) for line in key.read_text(encoding="utf-8").splitlines()]
    answers = write_lines(tmp_path / "answers.jsonl", [{"answer": row["solution"]} for row in rows])
    result = marks(answers, key)
    assert result["right"] == result["n"] == 300 - result["unjudgeable"]
    choices = reference_data / "contest" / "choice-2000.json"
    given = write_lines(tmp_path / "a.jsonl", [{"answer": row["output"]} for row in json.loads(choices.read_text())])
    result = json.loads(call("grade", "contest", given, "--task", "choice", "--key", choices, "--json").stdout)
    assert (result["right"], result["n"]) == (2000, 2000)


def exam_folder(folder: Path, dataset: str, answers: list[str]) -> Path:
    """The complete folder of an exam."""
    data, model = folder / "pre_data" / dataset, folder / "saved_model" / dataset
    data.mkdir(parents=True)
    model.mkdir(parents=True)
    rows = [{"instruction": "Is it grammatical?", "input": f"It is {number}.", "output": "1"} for number in range(3)]
    (data / f"{dataset}_train.json").write_text(json.dumps(rows))
    (data / f"{dataset}_dev.json").write_text(
        json.dumps([{k: row[k] for k in ("instruction", "input")} for row in rows])
    )
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    save_file({"a.lora_A.weight": np.zeros((2, 4), np.float32)}, str(model / "adapter_model.safetensors"))
    write_lines(folder / f"result_{dataset}.txt", answers)
    return folder


def exam(folder: Path, **keys: Path) -> dict[str, Any]:
    words = [word for dataset, file in keys.items() for word in ("--key", f"{dataset}={file}")]
    return json.loads(call("grade", "exam", folder, *words, "--json").stdout)


def test_the_marks_of_an_exam(tmp_path: Path) -> None:
    folder = exam_folder(tmp_path, "CoLA", ["1", "0", "1", "1"] + ["0"] * 200)
    exam_folder(tmp_path, "QQP", ["1", "T", "0"])
    cola = write_lines(tmp_path / "cola.txt", ["1", "0", "0", "1"] + ["0"] * 200)
    qqp = write_lines(tmp_path / "qqp.txt", ["1", "1", "0", "0"])
    result = exam(folder, CoLA=cola, QQP=qqp)
    first, second = result["datasets"]["CoLA"], result["datasets"]["QQP"]
    assert first["accuracy"] == 149 / 150, "the first 150 rows count"
    assert (first["data"]["marks"], first["model"]["marks"]) == (10, 20)
    assert first["total"] == pytest.approx(30 + 70 * 149 / 150)
    assert first["beside_name"] == "matthews"
    assert second["accuracy"] == 0.5
    assert second["beside_name"] == "f1"
    assert second["beside"] == pytest.approx(2 / 3)
    reasons = " ".join(second["answers"]["reasons"])
    assert "1 of 4 labels are missing" in reasons
    assert "the first is line 2" in reasons
    assert result["mean"] == pytest.approx((first["total"] + second["total"]) / 2)
    shown = call("grade", "exam", folder, "--key", f"CoLA={cola}").stdout
    assert "mean over CoLA: " in shown
    assert "(no key for QQP)" in shown


def broken(path: Path, content: str | bytes | None) -> None:
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "content", "part", "reason"),
    [
        ("pre_data/CoLA/CoLA_train.json", None, "data", "CoLA_train.json is missing"),
        ("pre_data/CoLA/CoLA_dev.json", "{", "data", "CoLA_dev.json"),
        ("pre_data/CoLA/CoLA_train.json", '[{"instruction":"a","input":"b","output":"x"}]', "data", "'x', not 0 or 1"),
        ("pre_data/CoLA/CoLA_train.json", '[{"instruction":" ","input":"b","output":"1"}]', "data", "lacks a text"),
        ("saved_model/CoLA/adapter_config.json", "[]", "model", "no configuration of PEFT"),
        ("saved_model/CoLA/adapter_config.json", None, "model", "adapter_config.json is missing"),
        ("saved_model/CoLA/adapter_model.safetensors", b"\x80\x04N.", "model", "cannot be read"),
        ("saved_model/CoLA/adapter_model.safetensors", None, "model", "adapter_model.safetensors"),
        ("saved_model/CoLA/adapter_model.bin", b"\x80\x04N.", "model", "can execute code"),
    ],
)  # fmt: skip
def test_a_part_that_is_not_valid_has_no_marks(
    tmp_path: Path, file: str, content: str | bytes | None, part: str, reason: str
) -> None:
    folder = exam_folder(tmp_path, "CoLA", ["1", "0"])
    broken(folder / file, content)
    one = exam(folder, CoLA=write_lines(tmp_path / "cola.txt", ["1", "0"]))["datasets"]["CoLA"]
    assert one[part]["marks"] == 0
    assert reason in " ".join(one[part]["reasons"])
    assert one["answers"]["marks"] == 70
    assert one["total"] == 100 - one[part]["at_most"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1", "0", "T", "I"], ":3: holds 'T' at character 1, and 1 more lines hold no label"),
        (["1", "*"], ":2: holds '*' at character 1"),
        (["1", "", "0"], ":2: is empty"),
        (["01"], ":1: holds '0' at character 1"),
    ],
)
def test_a_key_without_labels_is_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    folder = exam_folder(tmp_path, "CoLA", ["1", "0"])
    key = write_lines(tmp_path / "key.txt", lines)
    result = call("grade", "exam", folder, "--key", f"CoLA={key}", status=2)
    assert f"key.txt{words}" in result.stderr


@pytest.mark.parametrize("word", ["CoLA", "MRPC={}", "CoLA={}"])
def test_other_keys_are_refused(tmp_path: Path, word: str) -> None:
    key = write_lines(tmp_path / "key.txt", ["1"])
    words = ["--key", word.format(key), "--key", word.format(key)]
    call("grade", "exam", tmp_path, *words, status=2)
    call("grade", "exam", tmp_path / "missing", "--key", f"CoLA={key}", status=2)


@pytest.mark.oracle
def test_the_published_answers_of_the_exam(reference_data: Path, tmp_path: Path) -> None:
    from sklearn.metrics import matthews_corrcoef

    exam_data = reference_data / "exam"
    gold = exam_data / "CoLA_dev_gold_from_public_corpus.txt"
    answers = (exam_data / "result_CoLA_64.txt").read_text().split()
    folder = exam_folder(tmp_path / "published", "CoLA", answers)
    one = exam(folder, CoLA=gold)["datasets"]["CoLA"]
    assert one["accuracy"] == 96 / 150
    assert one["total"] == pytest.approx(30 + 70 * 0.64)
    always = exam_folder(tmp_path / "always", "CoLA", ["1"] * 150)
    assert exam(always, CoLA=gold)["datasets"]["CoLA"]["accuracy"] == 98 / 150
    # T stands in one line: a label of its own for Matthews' correlation.
    labels = gold.read_text().split()
    assert one["beside"] == pytest.approx(matthews_corrcoef(labels, answers))
    for name, dataset, line in (("result_QQP_46.txt", "QQP", 1), ("result_CoLA_64.txt", "CoLA", 33)):
        result = call("grade", "exam", folder, "--key", f"{dataset}={exam_data / name}", status=2)
        assert f"{name}:{line}: holds 'T' at character 1" in result.stderr


def graded(name: str, value: float, reasons: tuple[str, ...] = ()) -> GradedCheckpoint:
    return GradedCheckpoint(name, value, 0.001, 0.95, score("phase1", 0.001, value), 0.01, reasons, 0.1, ())


def test_the_best_valid_checkpoint_counts() -> None:
    points = [graded("a", 0.5), graded("b", 0.7), graded("c", 0.7), graded("d", 0.9, ("contest_em was not kept",))]
    assert best_checkpoint(points).name == "b"
    assert best_checkpoint(points[3:]).name == "d"


def test_gate_and_gain_of_a_checkpoint() -> None:
    def rows(right: int) -> list[ScoredExample]:
        return [ScoredExample(str(number), "", Score("", "", number < right)) for number in range(10)]

    kept = gate({"contest_f1": 60.0, "contest_em": 50.0}, {"contest_f1": 59.0, "contest_em": 46.0})
    lost = gate({"contest_f1": 60.0, "contest_em": 50.0}, {"contest_f1": 59.0, "contest_em": 44.0})
    better, same = (measure_target(ArithmeticTask(), rows(3), rows(right)) for right in (4, 3))
    one = grade_checkpoint("a", better, kept, 0.001, "phase1")
    assert one.valid
    assert one.score == pytest.approx(score("phase1", 0.001, 0.4))
    assert grade_checkpoint("a", better, lost, 0.001, "phase1").reasons == ("contest_em was not kept",)
    assert grade_checkpoint("a", same, kept, 0.001, "phase1").reasons == ("not better than the base",)
    nothing = gate({"contest_f1": 60.0, "contest_em": 4.0}, {"contest_f1": 59.0, "contest_em": 4.0})
    assert grade_checkpoint("a", better, nothing, 0.001, "phase1").reasons == ("contest_em is not measurable",)
    assert (one.base_accuracy, one.accuracy) == (0.3, 0.4)
    assert [(metric.name, metric.base, metric.tuned) for metric in one.retention] == [
        *(("contest_f1", 60.0, 59.0), ("contest_em", 50.0, 46.0)),
    ]
    assert grade_checkpoint("a", better, [], 0.001, "phase1").reasons == ("retention was not measured",)


def test_the_models_of_teams(bundle: Path, five_checkpoints: Path, small_base: Path, tmp_path: Path) -> None:
    hidden = write_lines(tmp_path / "hidden.jsonl", [row for row in KEYS if row["id"] != "c"])
    retention = tmp_path / "retention.json"
    question = {"id": "1", "question": "Who wrote it?", "answers": [{"text": "Lu Xun", "answer_start": 0}]}
    passage = {"context": "Lu Xun wrote the story.", "qas": [question]}
    retention.write_text(json.dumps({"data": [{"title": "it", "paragraphs": [passage]}]}))
    merged = five_checkpoints / "checkpoints" / "step-000001" / "merged"
    test = ("--task", "arithmetic", "--data", hidden, "--retention", retention, "--base", small_base)
    assert "--ratio" in call("grade", "contest", merged, *test, status=2).stderr
    result = json.loads(call("grade", "contest", bundle, merged, *test, "--ratio", 0.5, "--json").stdout)
    teams = {one["team"]: one for one in result}
    assert set(teams) == {"The Team", "step-000001/merged"}
    claims = json.loads((five_checkpoints / "scorecard.json").read_text())
    own = teams["The Team"]
    assert [one["name"] for one in own["checkpoints"]] == [f"step-{number:06d}" for number in range(1, 6)]
    assert {one["ratio"] for one in own["checkpoints"]} == {claims["parameters"]["ratio"]}
    assert own["claimed"]["score"] == claims["score"]["value"]
    # A base of random weights has nothing to keep, so no checkpoint is valid.
    assert own["best"]["retained"] is None
    assert {"contest_f1 is not measurable", "contest_em is not measurable"} <= set(own["best"]["reasons"])
    assert teams["step-000001/merged"]["claimed"] is None
    assert teams["step-000001/merged"]["best"]["ratio"] == 0.5
