"""Sentences and pairs: the well-known files are read as they are, and a key that is no label is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lotune.errors import DataError, SettingsError
from lotune.tasks.sentence_classification import SentenceClassificationTask, SentencesSettings, extract_label

FILES = {
    "CoLA_train.tsv": "gj04\t1\t\tOur friends won't buy this.\r\ngj04\t0\t*\tThey \"drank the pub.\r\n",
    "QQP_train.tsv": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n2\t4\t5\tWho?\tWho is it?\t1\n"
    ),
    "mrpc.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\tHe left .\tHe went .\n0\t4\t5\tA\tB\n",
}


@pytest.mark.parametrize(("name", "first", "labels"), [
    ("CoLA_train.tsv", "Our friends won't buy this.", ["1", "0"]),
    ("QQP_train.tsv", "Sentence 1: Why?\nSentence 2: How?", ["0", "1"]),
    ("mrpc.tsv", "Sentence 1: He left .\nSentence 2: He went .", ["1", "0"]),
])  # fmt: skip
def test_the_well_known_files(tmp_path: Path, name: str, first: str, labels: list[str]) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8", newline="")
    task = SentenceClassificationTask()
    results = list(task.examples(task.read(tmp_path / name).rows, training=True))
    assert [result.target for result in results] == labels
    assert first in results[0].prompt


def test_a_dev_file_without_labels_is_answered_but_not_scored(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("gj04\t\tThe sailors rode.\ngj04\t*\tThey sail it.\n")
    task = SentenceClassificationTask()
    rows = task.read(tmp_path / "dev.tsv").rows
    [asked, _] = task.examples(rows, training=False)
    assert (asked.target, asked.references) == ("", ())
    assert task.judge(asked, "1").correct is None
    with pytest.raises(DataError, match="no label to train on"):
        list(task.examples(rows, training=True))


def test_custom_columns_and_words(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("review,mood\nGood film.,pos\nBad film.,neg\n")
    settings = SentencesSettings(columns={"sentence": "review", "label": "mood"}, labels={"neg": "bad", "pos": "good"},
        instruction="Is the review {labels}?",
    )  # fmt: skip
    task = SentenceClassificationTask(settings)
    good, bad = task.examples(task.read(tmp_path / "own.csv").rows, training=True)
    assert (good.target, bad.target) == ("good", "bad")
    assert "Is the review bad or good?" in good.prompt
    figures = task.metrics([task.judge(good, "It is good."), task.judge(bad, "Good, I think")])
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == figures["balanced_accuracy"] == 0.5


def test_a_chinese_instruction_names_the_labels_in_chinese() -> None:
    settings = SentencesSettings(labels={"0": "差", "1": "好"}, instruction="这条评论是{labels}？")
    [example] = SentenceClassificationTask(settings).examples(
        [("1", {"sentence": "可以。", "label": 1})], training=True
    )
    assert "这条评论是差或好？" in example.prompt


def test_a_reference_that_is_no_label_is_refused() -> None:
    with pytest.raises(DataError, match="row 7: its label is 'T'"):
        list(SentenceClassificationTask().examples([("row 7", {"sentence": "So.", "label": "T"})], training=False))
    with pytest.raises(SettingsError, match=r"task\.labels"):
        SentenceClassificationTask(SentencesSettings(labels={"0": "no", "1": "no"}))


def test_the_first_label_that_stands_alone() -> None:
    assert extract_label("not entailment", ("entailment", "not entailment")) == "not entailment"
    assert extract_label("01", ("0", "1")) is None
    assert extract_label("答案1。", ("0", "1")) == "1"


@pytest.mark.oracle
def test_real_files_are_read_whole(reference_data: Path) -> None:
    task = SentenceClassificationTask()
    counts = {}
    for name in ("exam/CoLA_train.tsv", "exam/CoLA_dev.tsv", "exam/QQP_dev.tsv", "cola/in_domain_train.tsv"):
        rows = task.read(reference_data / name).rows
        counts[name] = len(list(task.examples(rows, training=name.endswith("train.tsv"))))
        assert counts[name] == len(rows) > 100


def test_numbers_are_labels_and_null_is_none() -> None:
    task = SentenceClassificationTask()
    zero, none = task.examples(
        [("1", {"sentence": "So.", "label": 0}), ("2", {"sentence": "So.", "label": None})], training=False
    )
    assert (zero.references, none.references) == (("0",), ())
    with pytest.raises(DataError, match="row 3: has no sentence"):
        list(task.examples([("row 3", {"sentence": None, "label": 0})], training=False))
    braces = SentenceClassificationTask(SentencesSettings(instruction="Is {it} {labels}? {"))
    [example] = braces.examples([("1", {"sentence": "So.", "label": "1"})], training=False)
    assert "Is {it} 0 or 1? {" in example.prompt


def test_the_order_of_labels_redoes_a_run() -> None:
    """The last one is the positive one."""
    from lotune.recipe import Recipe
    from lotune.stages.dependencies import stage_inputs

    results = [
        stage_inputs(Recipe(task=SentencesSettings(labels=labels)), "evaluate")
        for labels in ({"0": "no", "1": "yes"}, {"1": "yes", "0": "no"})
    ]
    assert results[0] != results[1]
