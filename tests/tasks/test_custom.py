"""A task in a recipe alone: its prompt, its judge, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import orjson
import pytest

from lotune.errors import DataError, SettingsError
from lotune.tasks.custom import CustomSettings, CustomTask
from lotune.tasks.metrics import balanced_accuracy, f1, longest_common_subsequence, matthews, rouge_l
from lotune.tasks.scorers import score_text
from lotune.tasks.task import Score


@pytest.mark.parametrize(("judge", "answer", "right"), [
    ("exact", " It  is\n4.", True), ("exact", "It is 4", False), ("contains", "I say: It is 4. Yes.", True),
    ("number", "about 4.0", True), ("number", "5", False), (r"regex:is (\d)", "it is 4", False),
    (r"regex:It is \d\.", "So. It is 4.", True), ("f1", "is 4", False), ("rouge-l", "It is 4.", True),
])  # fmt: skip
def test_scorers(judge: str, answer: str, right: bool) -> None:
    settings = CustomSettings(prompt="{a} + {b}?", answer_column="sum", scorer=judge)
    task = CustomTask(settings)
    [example] = task.examples([("1", {"a": 1, "b": 3, "sum": "It is 4."})], training=True)
    assert "1 + 3?" in example.prompt
    judged = task.judge(example, answer)
    assert judged.correct is right
    figures = task.metrics([judged])
    assert task.metric == {"f1": "squad_f1", "rouge-l": "rouge_l"}.get(judge, "accuracy")
    assert figures[task.metric] == (judged.scores[task.metric] if task.score_name_by_metric else float(right))


def test_letters_and_labels() -> None:
    assert score_text("letter", "The answer is B", "B").correct
    assert score_text("letter", "B", "none").correct is None
    task = CustomTask(CustomSettings(prompt="{q}", scorer="label", labels={"0": "no", "1": "yes"}))
    [example] = task.examples([("1", {"q": "So?", "answer": "1"})], training=True)
    assert (example.target, task.judge(example, "Yes!").correct) == ("yes", True)


def test_a_reference_that_is_no_label_is_refused() -> None:
    task = CustomTask(CustomSettings(prompt="{q}", scorer="label", labels={"0": "no", "1": "yes"}))
    for training in (True, False):
        with pytest.raises(DataError, match=r"row 2: its label is 'T'\nexpected: one of 0, 1"):
            list(task.examples([("row 2", {"q": "So?", "answer": "T"})], training=training))
    words = [("1", {"q": "So?", "answer": " yes "}), ("2", {"q": "So?", "answer": ""})]
    assert [example.references for example in task.examples(words, training=False)] == [("yes",), ()]


@pytest.mark.parametrize(("settings", "expected"), [
    ({"scorer": "regex:("}, "is not a valid pattern"),
    ({"scorer": "label", "labels": {"0": "no"}}, "two at least"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        CustomTask(CustomSettings(**settings))  # type: ignore[arg-type]


def test_a_column_that_is_not_there_is_named() -> None:
    task = CustomTask(CustomSettings(prompt="{Problem}"))
    with pytest.raises(DataError, match=r"has no Problem .*nearest to 'Problem' is 'problem'"):
        list(task.examples([("row 2", {"problem": "x", "answer": "y"})], training=False))


@pytest.mark.oracle
def test_rouge_l_of_the_published_examples(reference_data: Path) -> None:
    rows = [orjson.loads(line) for line in (reference_data / "rouge-l-zh-examples.jsonl").read_bytes().splitlines()]
    results = [round(rouge_l(row["prediction"], row["reference"]), 4) for row in rows]
    assert results == [0.3077, 0.875, 1.0, 0.8356, 0.2143, 0.2724]
    for row in rows:
        judged = score_text("rouge-l", row["prediction"], row["reference"])
        assert judged.scores["rouge_l"] == pytest.approx(100 * row["f1_beta1"])
        if (beta := row["beta_that_reproduces"]) is not None:
            assert rouge_l(row["prediction"], row["reference"], beta) == pytest.approx(row["published"], abs=2e-3)


def all_pairs(draw: Random, labels: Sequence[str], count: int) -> list[Score]:
    pairs = [(draw.choice(labels), draw.choice(labels)) for _ in range(count)]
    return [Score(read, key, read == key) for read, key in pairs]


@pytest.mark.oracle
@pytest.mark.parametrize("labels", ["01", "abc"])
def test_figures_are_those_of_scikit_learn(labels: str) -> None:
    import warnings

    from sklearn import metrics

    draw = Random(5)
    for count in (2, 5, 60):
        judged = all_pairs(draw, labels, count)
        keys, reads = [item.reference for item in judged], [item.extracted for item in judged]
        assert matthews(judged) == pytest.approx(metrics.matthews_corrcoef(keys, reads))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert balanced_accuracy(judged) == pytest.approx(metrics.balanced_accuracy_score(keys, reads))
            expected = metrics.f1_score([key == "1" for key in keys], [read == "1" for read in reads], zero_division=0)
        assert f1(judged, "1") == pytest.approx(expected)


def test_the_longest_common_subsequence() -> None:
    def plain(a: str, b: str) -> int:
        if not a or not b:
            return 0
        return 1 + plain(a[1:], b[1:]) if a[0] == b[0] else max(plain(a[1:], b), plain(a, b[1:]))

    draw = Random(2)
    for _ in range(60):
        a, b = ("".join(draw.choices("ab", k=draw.randint(0, 7))) for _ in range(2))
        assert longest_common_subsequence(a, b) == plain(a, b)


def test_a_pattern_that_never_ends_is_stopped() -> None:
    with pytest.raises(SettingsError, match=r"takes more than 1 s for one answer of 61 characters"):
        score_text(r"regex:(a|aa)+$", "a" * 60 + "!", "a")
