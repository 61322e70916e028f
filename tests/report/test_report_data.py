"""What a report gathers from a run folder, and how it names what is damaged there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lotune.errors import DataError, RunError
from lotune.evaluate.predict import Prediction
from lotune.files import read_json, write_json
from lotune.report.report_data import (
    ExamplePair,
    Report,
    collect_report,
    needed_files,
    pick_by_kind,
    read_training,
    strip_shared_lines,
)
from lotune.tasks.task import Score


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def gathered(folder: Path) -> Report:
    return collect_report(folder, "mine", [], "lotune run")


def test_the_examples_add_up(folder: Path) -> None:
    report = gathered(folder)
    target, examples = report.card.target, report.examples
    assert (examples.numbers["won"], examples.numbers["lost"]) == (target.gained, target.lost)
    assert sum(examples.numbers.values()) == target.n
    assert all(row.tuned.score.correct and not row.base.score.correct for row in examples.won)
    assert all(row.base.score.correct and not row.tuned.score.correct for row in examples.lost)
    assert len(examples.won) == 6
    assert [row.tuned.category for row in examples.won] == 2 * [row.tuned.category for row in examples.won[:3]]
    assert examples.won[0].question == "1 + 1 = <?>"


def test_rows_that_cannot_be_scored_are_in_no_group(folder: Path) -> None:
    for name in ("base", "step-000075"):
        path = folder / "predictions" / "arithmetic" / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["correct"] = None
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sum(gathered(folder).examples.numbers.values()) == 59


def test_for_a_mean_metric_the_scores_decide(folder: Path) -> None:
    card = read_json(folder / "scorecard.json")
    card["target"].update(task="reading", metric="contest_f1", difference_interval=[1.0, 2.0])
    write_json(folder / "scorecard.json", card)
    shutil.copytree(folder / "predictions" / "arithmetic", folder / "predictions" / "reading")
    for name, score in (("base", 40.0), ("step-000075", 60.0)):
        path = folder / "predictions" / "reading" / f"{name}.jsonl"
        lines = [{**json.loads(line), "scores": {"contest_f1": score}} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gathered(folder).examples.numbers["won"] == 60


def test_of_a_step_done_again_the_last_record_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 3.0), (2, 2.0), (2, 1.5), (3, None)]
    lines = [json.dumps({"number": number, "loss": loss, "tokens": 10, "seconds": 1.0}) for number, loss in steps]
    path.write_text("\n".join([*lines, '{"validation": {"step": 3}}', '{"number": 4, "lo']))
    training = read_training(path)
    assert training.losses == ((1, 3.0), (2, 1.5))
    assert (training.steps, training.tokens, training.seconds) == (3, 30, 3.0)


@pytest.mark.parametrize("line", ["{", "7", '{"loss": 1.0}', '{"loss": 1.0, "number": null}'])
def test_a_damaged_line_of_the_metrics_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"number": 1, "loss": 1.0}}\n{line}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2"):
        read_training(path)


def test_a_damaged_prediction_is_named(folder: Path) -> None:
    path = folder / "predictions" / "arithmetic" / "base.jsonl"
    path.write_text(path.read_text() + '{"id": "x"}\n')
    with pytest.raises(DataError, match=r"base\.jsonl:61"):
        gathered(folder)


def test_missing_counts_are_named(folder: Path) -> None:
    counts = read_json(folder / "data" / "counts.json")
    del counts["rows"]["duplicates"]
    write_json(folder / "data" / "counts.json", counts)
    with pytest.raises(RunError, match=r"counts\.json: lacks rows\.duplicates"):
        gathered(folder)


def test_a_report_needs_a_finished_run(folder: Path) -> None:
    assert needed_files(folder) == []
    (folder / "metrics.jsonl").unlink()
    (folder / "predictions" / "arithmetic" / "step-000075.jsonl").unlink()
    assert needed_files(folder) == ["metrics.jsonl", "predictions/arithmetic/step-000075.jsonl"]
    (folder / "scorecard.json").unlink()
    assert needed_files(folder) == ["metrics.jsonl", "scorecard.json"]


def test_kinds_take_turns() -> None:
    def row(number: int, kind: str) -> ExamplePair:
        prediction = Prediction(str(number), "", "", Score("", "", True), kind)
        return ExamplePair("", prediction, prediction)

    rows = [row(number, kind) for number, kind in enumerate("aaaabbc")]
    assert [item.tuned.category for item in pick_by_kind(rows, 6)] == ["a", "b", "c", "a", "b", "a"]
    assert pick_by_kind([], 6) == []


def test_questions_that_are_all_the_same_stay_whole() -> None:
    assert strip_shared_lines([]) == []
    assert strip_shared_lines(["a\nb", "a\nb"]) == ["a\nb", "a\nb"]
    assert strip_shared_lines(["a", "b"]) == ["a", "b"]
    assert strip_shared_lines(["p\nx\nq", "p\nx\ny\nq"]) == ["", "y"]
