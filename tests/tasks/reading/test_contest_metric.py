"""The contest's metric against its own logged values, and the laws that it keeps and does not keep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.tasks.reading.contest_metric import (
    contest_f1_em,
    contest_tokens,
    longest_common_run,
    normalise_contest_answer,
)
from lotune.tasks.reading.task import first_line

TEXTS = st.text(st.sampled_from("ab the 24.,-·中国人（）'\"\n"), max_size=12) | st.text(max_size=12)


def stored(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "contest" / name).read_text().splitlines()]


def check(pairs: list[tuple[str, dict]]) -> tuple[float, float]:
    scores = [contest_f1_em(text, row["label"]) for text, row in pairs]
    for (text, row), (f1, em) in zip(pairs, scores, strict=True):
        assert f1 == pytest.approx(row["F1"], abs=1e-9), (text, row)
        assert em == pytest.approx(row["Em"], abs=1e-9), (text, row)
    return sum(f1 for f1, _ in scores) / len(pairs), sum(em for _, em in scores) / len(pairs)


@pytest.mark.oracle
def test_the_thousand_stored_answers(reference_data: Path) -> None:
    rows = stored(reference_data, "emf1-answers-1000.jsonl")
    f1, em = check([(first_line(row["raw_answer"]), row) for row in rows])
    assert len(rows) == 1000
    assert f1 == pytest.approx(59.384656341897106, abs=1e-9)
    assert em == pytest.approx(44.2, abs=1e-9)


@pytest.mark.oracle
def test_the_stored_triples_and_their_means(reference_data: Path) -> None:
    rows = stored(reference_data, "emf1-triples-1199.jsonl")
    f1, em = check([(row["pred"], row) for row in rows])
    assert len(rows) == 1199
    assert f1 == pytest.approx(sum(row["F1"] for row in rows) / 1199, abs=1e-9)
    assert em == pytest.approx(sum(row["Em"] for row in rows) / 1199, abs=1e-9)


@given(TEXTS, TEXTS)
def test_bounds_and_symmetry(first: str, second: str) -> None:
    f1, em = contest_f1_em(first, second)
    assert 0 <= f1 <= 100
    assert em in (0, 100)
    assert contest_f1_em(second, first) == (f1, em)


@given(TEXTS, TEXTS)
def test_em_means_full_f1_unless_both_texts_become_empty(first: str, second: str) -> None:
    f1, em = contest_f1_em(first, second)
    if em == 100:
        assert f1 == (100 if normalise_contest_answer(first) else 0)


@given(TEXTS)
def test_segments_lose_nothing(text: str) -> None:
    assert "".join(contest_tokens(text)) == text


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_longest_common_run_is_the_longest(first: list[int], second: list[int]) -> None:
    runs = {tuple(second[i:j]) for i in range(len(second)) for j in range(i, len(second) + 1)}
    actual = (tuple(first[i:j]) for i in range(len(first)) for j in range(i, len(first) + 1))
    assert longest_common_run(first, second) == max((len(run) for run in actual if run in runs), default=0)


@pytest.mark.parametrize(
    ("prediction", "label", "f1", "em"),
    [
        ("", "", 0.0, 100.0),  # nothing is common, yet both are equal
        ("", "x", 0.0, 0.0),
        ("国中", "中国", 50.0, 0.0),  # a run, not a bag and not a subsequence
        ("中国人民", "中国的人民", 400 / 9, 0.0),
        ("the cat", "cat", 50.0, 0.0),  # the article and the blank stay: 3 segments against 1
        ("well-known", "wellknown", 100.0, 100.0),
        ("24–10", "2410", 0.0, 0.0),  # an en dash is none of the dropped symbols
    ],
)
def test_worked_values(prediction: str, label: str, f1: float, em: float) -> None:
    assert contest_f1_em(prediction, label) == pytest.approx((f1, em))


def test_the_first_use_is_quiet() -> None:
    code = "from lotune.tasks.reading.contest_metric import contest_f1_em; contest_f1_em('a b', 'a')"
    command = [sys.executable, "-W", "error", "-c", code]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert completed.stdout == completed.stderr == ""
