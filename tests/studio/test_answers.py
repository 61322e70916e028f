"""Filters and search of answers agree with looking at every row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.studio.answers import RunAnswers, Selection
from lotune.studio.errors import CallError

Row = dict[str, Any]
WORDS = ("warm", "COLD", "温暖", 'say "hi"', "a\nb", "Straße", "answer", "\\n")


def write(folder: Path, base: list[Row], tuned: list[Row], **target: Any) -> Path:
    card = {"target": {"task": "sentences", "metric": "accuracy", **target}, "chosen_checkpoint": "step-000010"}
    (folder / "predictions" / "sentences").mkdir(parents=True, exist_ok=True)
    (folder / "scorecard.json").write_text(json.dumps(card))
    for name, rows in (("base", base), ("step-000010", tuned)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "predictions" / "sentences" / f"{name}.jsonl").write_text("".join(lines))
    return folder


def row(id: int, correct: bool | None, text: str, kind: str = "") -> Row:
    return {"id": f"r:{id}", "prompt": f"Is it {text}?", "answer": text, "extracted": text, "reference": "k",
            "correct": correct, "scores": {"f1": 50.0 * bool(correct)}, "kind": kind}  # fmt: skip


def some_rows(seed: int, count: int = 40) -> tuple[list[Row], list[Row]]:
    draw = random.Random(seed)
    tuned = [
        row(n, draw.choice((True, False, None)), draw.choice(WORDS), draw.choice(("", "a", "b"))) for n in range(count)
    ]
    base = [row(n, draw.choice((True, False)), draw.choice(WORDS)) for n in range(count) if draw.random() < 0.9]
    draw.shuffle(base)
    return base, tuned


VERDICTS: dict[str, Callable[[Row | None, Row], bool]] = {
    "all": lambda base, tuned: True,
    "right": lambda base, tuned: tuned["correct"] is True,
    "wrong": lambda base, tuned: tuned["correct"] is False,
    "won": lambda base, tuned: bool(base and not base["correct"] and tuned["correct"]),
    "lost": lambda base, tuned: bool(base and base["correct"] and tuned["correct"] is False),
    "unjudged": lambda base, tuned: tuned["correct"] is None,
}


def holds(text: str, *rows: Row | None) -> bool:
    fields = ("prompt", "answer", "extracted", "reference", "id")
    return any(text.casefold() in str(one[name]).casefold() for one in rows if one for name in fields)


@given(st.integers(0, 10**6), st.sampled_from(sorted(VERDICTS)), st.sampled_from(["", "a", "none"]),
       st.sampled_from(["", *WORDS, "r:1", "warM", "?"]))  # fmt: skip
def test_a_selection_is_what_looking_at_every_row_finds(seed: int, verdict: Any, kind: str, text: str) -> None:
    import tempfile

    base, tuned = some_rows(seed)
    before = {one["id"]: one for one in base}
    expected = [one["id"] for one in tuned
                if VERDICTS[verdict](before.get(one["id"]), one) and (not kind or one["kind"] == kind)
                and (not text or holds(text, one, before.get(one["id"])))]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = RunAnswers().page(write(Path(folder), base, tuned), Selection(verdict, kind, text), 0, 100)
    assert [one["id"] for one in found["rows"]] == expected
    assert found["found"] == len(expected)
    assert found["counts"]["won"] == sum(VERDICTS["won"](before.get(one["id"]), one) for one in tuned)
    assert found["kinds"] == sorted({one["kind"] for one in tuned} - {""})


def test_pages_join_to_the_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, *some_rows(1, 95))
    answers, ids = RunAnswers(), []
    for first in range(0, 95, 30):
        ids += [one["id"] for one in answers.page(folder, Selection(), first, 30)["rows"]]
    assert ids == [f"r:{n}" for n in range(95)]


@pytest.mark.parametrize(("lower", "verdict"), [(False, "won"), (True, "lost")])
def test_a_metric_that_is_a_mean_wins_by_its_score(tmp_path: Path, lower: bool, verdict: str) -> None:
    base, tuned = [row(1, False, "a"), row(2, True, "a")], [row(1, True, "a"), row(2, True, "a")]
    folder = write(tmp_path, base, tuned, score="f1", lower_is_better=lower)
    found = RunAnswers().page(folder, Selection(verdict), 0, 10)  # type: ignore[arg-type]
    assert [one["id"] for one in found["rows"]] == ["r:1"]


def test_answers_that_change_are_read_again(tmp_path: Path) -> None:
    answers = RunAnswers()
    assert answers.page(write(tmp_path, [], [row(1, True, "a")]), Selection(), 0, 10)["found"] == 1
    assert answers.page(write(tmp_path, [], [row(1, True, "a"), row(2, True, "b")]), Selection(), 0, 10)["found"] == 2


def test_a_run_without_answers_says_so(tmp_path: Path) -> None:
    with pytest.raises(CallError) as caught:
        RunAnswers().page(tmp_path, Selection(), 0, 10)
    assert caught.value.status == 409
