"""The exam from tsv files to the hand-in, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

from lotune.contest.exam_files import ExamFiles
from lotune.tasks.sentence_classification import SentenceClassificationTask

QUICK = (
    *("base.model=nano", "tune.steps=4", "checkpoints.count=2", "checkpoints.spacing=even", "checkpoints.merged=none"),
    *("retention.rows=10", "retention.validation_rows=0", "retention.replay.rows=0", "threads=1"),
    *("data.validation_rows=10", "data.test_rows=10", "data.sample.rows=60", "exam.answers=12"),
)
"""Settings of a small run of a shipped recipe of the exam."""


def check_hand_in(folder: Path, dataset: str, read: int) -> None:
    """Check the files of the exam after a run of `QUICK` on a training file of at least `read` rows."""
    files = ExamFiles(folder, dataset)
    train, dev = (json.loads(path.read_text(encoding="utf-8")) for path in (files.train, files.dev))
    assert read - 5 <= len(train) <= read  # a row that a test row repeats is not trained on
    assert {tuple(row) for row in train} == {("instruction", "input", "output")}
    assert {row["output"] for row in train} == {"0", "1"}
    assert {tuple(row) for row in dev} == {("instruction", "input")}
    assert {row["instruction"] for row in dev} == {row["instruction"] for row in train}
    assert (files.saved_model / "adapter_model.safetensors").stat().st_size > 10_000
    labels = files.result.read_text(encoding="utf-8").splitlines()
    assert len(labels) == len(dev) == 12
    assert set(labels) <= {"0", "1"}


def check_marks(folder: Path, dataset: str, key: list[str]) -> None:
    """Check that the hand-in gets full marks but for its wrong answers."""
    (folder / "key.txt").write_text("\n".join(key) + "\n")
    given = ExamFiles(folder, dataset).result.read_text().splitlines()
    marks = json.loads(call("grade", "exam", folder, "--key", f"{dataset}={folder / 'key.txt'}", "--json").stdout)
    right = sum(answer == label for answer, label in zip(given, key, strict=True))
    assert marks["datasets"][dataset]["total"] == pytest.approx(10 + 20 + 70 * right / len(key))


@pytest.mark.slow
@pytest.mark.oracle
def test_the_exam_on_cola(reference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "dev"):
        (tmp_path / f"CoLA_{part}.tsv").symlink_to(reference_data / "exam" / f"CoLA_{part}.tsv")
    call("run", "exam-cola", *QUICK)
    check_hand_in(tmp_path, "CoLA", 80)
    gold = (reference_data / "exam" / "CoLA_dev_gold_from_public_corpus.txt").read_text().split()
    check_marks(tmp_path, "CoLA", gold[:12])
    prepared = SentenceClassificationTask().read(tmp_path / "pre_data" / "CoLA" / "CoLA_dev.json").rows
    assert len(list(SentenceClassificationTask().examples(prepared, training=False))) == 12
    before = (tmp_path / "result_CoLA.txt").read_bytes()
    call("run", "exam-cola", *QUICK)  # finished: writes the same again
    assert (tmp_path / "result_CoLA.txt").read_bytes() == before


@pytest.mark.slow
@pytest.mark.oracle
def test_the_exam_on_pairs(reference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Microsoft Research Paraphrase Corpus stands in for QQP's training file, in its columns."""
    monkeypatch.chdir(tmp_path)
    rows = (reference_data / "pairs" / "mrpc" / "msr_paraphrase_train.txt").read_text(encoding="utf-8-sig")
    lines = [line.split("\t") for line in rows.splitlines()[1:]]
    table = [
        f"{number}\t{a}\t{b}\t{first}\t{second}\t{label}" for number, (label, a, b, first, second) in enumerate(lines)
    ]
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    (tmp_path / "QQP_train.tsv").write_text("\n".join([head, *table, ""]), encoding="utf-8")
    (tmp_path / "QQP_dev.tsv").symlink_to(reference_data / "exam" / "QQP_dev.tsv")
    call("run", "exam-qqp", *QUICK)
    check_hand_in(tmp_path, "QQP", 80)
    check_marks(tmp_path, "QQP", ["0", "1"] * 6)  # the true labels of these pairs were not published


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.name=arithmetic"], "exam: the task arithmetic gives no labels"),
        (["task.name=sentences"], "data.train: is not set"),
        (["task.name=sentences", "task.labels={'0': 'no', '1': 'no', '2': 'yes'}"], "two labels have the same word"),
        (["task.name=sentences", "data.train=missing.tsv"], "missing.tsv does not exist"),
    ],
)
def test_a_recipe_that_is_no_exam_is_refused_before_any_work(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev.tsv").write_text("a\t\tA sentence.\n")
    (tmp_path / "exam.yaml").write_text("exam: {name: CoLA, dev: dev.tsv}\n")
    if "labels" in words[-1]:
        words = [*words, "data.train=dev.tsv"]
    result = call("run", "exam.yaml", *words, status=2)
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "pre_data").exists()


def test_the_name_of_a_dataset_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "exam.yaml").write_text("exam: {name: ../CoLA, dev: dev.tsv}\n")
    assert "exam.name" in call("run", tmp_path / "exam.yaml", status=2).stderr
