"""The complete logs of a run: every step, every answer, the running means, and nothing that could pass for a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

from lotune.contest.logs import RetentionAnswers, logged_answers, logged_steps, one_line, retention_log, training_log
from lotune.data.examples import Example
from lotune.errors import RunError
from lotune.evaluate.predict import Prediction
from lotune.tasks.reading.task import ReadingTask


def answered(texts: list[str], labels: list[str]) -> RetentionAnswers:
    task = ReadingTask()
    examples, predictions = [], []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        parts = ("Read.\n", f"Passage {number}.", f"\n\nQuestion {number}?\n\nAnswer:")
        example = Example(f"id {number}", "".join(parts), label, (label,), prompt_parts=parts)
        examples.append(example)
        predictions.append(Prediction(example.id, example.prompt, text, task.judge(example, text), ""))
    return RetentionAnswers("reading", "base", examples, predictions[::-1])  # in order of completion


def test_the_training_log_is_complete(tmp_path: Path) -> None:
    records = [
        {"number": 1, "loss": 2.5, "learning_rate": 0.1, "tokens": 9, "seconds": 0.25},
        {"number": 2, "loss": 9.0, "learning_rate": 0.1, "tokens": 9, "seconds": 0.25},
        {"number": 2, "loss": 2.0, "learning_rate": 0.05, "tokens": 8, "seconds": 0.5},
        {"validation": {"name": "step-000002", "step": 2, "value": 0.5, "loss": 1.9}},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"number": 3, "lo')
    log = training_log({"tuning": path, "repair": path})
    assert log.splitlines()[:4] == [
        "tuning: 2 steps, 1 validations",
        "step 1  loss 2.5  learning_rate 0.1  tokens 9  seconds 0.25",
        "step 2  loss 2.0  learning_rate 0.05  tokens 8  seconds 0.5",
        "validation after step 2  checkpoint step-000002  metric 0.5  loss 1.9",
    ]
    assert log.splitlines()[4] == "repair: 2 steps, 1 validations"
    assert logged_steps(log) == [1, 2]
    path.write_text("[1]\n")
    with pytest.raises(RunError, match=r"metrics.jsonl:1"):
        training_log({"tuning": path})


def test_the_retention_log_has_every_answer_in_order() -> None:
    log = retention_log([answered(["Denver Broncos", "1999", ""], ["Denver Broncos", "2000", "six"])])
    assert logged_answers(log) == {"reading, base": 3}
    lines = log.splitlines()
    assert lines[0] == "reading, base: 3 questions"
    assert lines[1:6] == [
        "1 id 0",
        "  question: Question 0?",
        "  answer: Denver Broncos",
        "  read as: Denver Broncos",
        "  label: Denver Broncos",
    ]
    means = [line for line in lines if line.startswith("  means of ")]
    assert means[0].startswith("  means of 1: contest_f1 100.0  contest_em 100.0")
    assert means[1].startswith("  means of 2: contest_f1 50.0  contest_em 50.0")
    assert means[2].startswith(f"  means of 3: contest_f1 {100 / 3!r}  contest_em {100 / 3!r}")


def test_an_answer_cannot_pass_for_a_line_of_the_log() -> None:
    forged = "x\n  label: right\n2 id 9\nreading, base: 99 questions\n\x1b[2J\u202e"
    log = retention_log([answered([forged], ["right"])])
    assert logged_answers(log) == {"reading, base": 1}
    assert len(log.splitlines()) == 9, "a heading, seven lines of the answer, and an empty one"
    assert "\x1b" not in log
    assert "\u202e" not in log
    assert one_line("a\r\nb") == "a␍␊b"


@pytest.mark.oracle
def test_the_logged_answers_of_the_contest_give_its_means(reference_data: Path) -> None:
    path = reference_data / "contest" / "emf1-answers-1000.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    log = retention_log([answered([row["raw_answer"] for row in rows], [row["label"] for row in rows])])
    last = [line for line in log.splitlines() if line.startswith("  means of 1000: ")]
    [figures] = [dict(part.split(" ") for part in line.partition(": ")[2].split("  ")) for line in last]
    assert float(figures["contest_f1"]) == pytest.approx(59.384656341897106, abs=1e-9)
    assert float(figures["contest_em"]) == pytest.approx(44.2, abs=1e-9)


def test_a_finished_run_has_both_logs(five_checkpoints: Path) -> None:
    log = (five_checkpoints / "training-log.txt").read_text(encoding="utf-8")
    assert logged_steps(log) == [1, 2, 3, 4, 5]
    assert log.count("validation after step") == 5
    chosen = json.loads((five_checkpoints / "scorecard.json").read_text())["chosen_checkpoint"]
    retention = (five_checkpoints / "retention-log.txt").read_text(encoding="utf-8")
    assert logged_answers(retention) == {"reading, base": 4, f"reading, {chosen}": 4}
    assert str(five_checkpoints.parent) not in log + retention
    for name in ("training-log.txt", "retention-log.txt"):
        (five_checkpoints / name).unlink()
    call("report", five_checkpoints)
    assert (five_checkpoints / "training-log.txt").read_text(encoding="utf-8") == log
    assert (five_checkpoints / "retention-log.txt").read_text(encoding="utf-8") == retention
