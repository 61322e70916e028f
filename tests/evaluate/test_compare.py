"""Comparing predictions: the tests' figures, the plain sentence, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from command_line import call

from lotune.errors import DataError
from lotune.evaluate.compare import compare, items_needed, metric_of
from lotune.evaluate.predict import Prediction
from lotune.runs import append_jsonl
from lotune.tasks.task import Judged


def predictions(verdicts: Sequence[bool | None], scores: Sequence[float] | None = None) -> list[Prediction]:
    given = [{"contest_f1": score} for score in scores] if scores else [{}] * len(verdicts)
    return [
        Prediction(str(n), "p", f"answer {right}", Judged("x", "k", right, its), "kind")
        for n, (right, its) in enumerate(zip(verdicts, given, strict=True))
    ]


def test_one_that_is_clearly_better() -> None:
    a, b = predictions([False] * 30 + [True] * 30), predictions([True] * 55 + [False] * 5)
    found = compare(a, b, ("a", "b"))
    assert (found.n, found.b_better_on, found.a_better_on, found.verdict) == (60, 30, 5, "B is better")
    assert found.difference == pytest.approx(25 / 60)
    assert found.interval.low > 0
    assert compare(b, a, ("b", "a")).verdict == "A is better"
    assert [one.better for one in found.differing] == ["B"] * 30 + ["A"] * 5


def test_items_that_cannot_tell() -> None:
    found = compare(predictions([True, False, True]), predictions([True, True, False]), ("a", "b"))
    assert (found.verdict, found.items_needed, found.difference) == ("these items cannot tell", None, 0.0)
    few = compare(predictions([True, False, False, None]), predictions([True, True, False, True]), ("a", "b"))
    assert (few.verdict, few.n, few.only_one_has) == ("these items cannot tell", 3, 0)
    assert few.items_needed is not None
    assert few.items_needed > 3


def test_the_items_needed_have_the_power_that_they_promise() -> None:
    """Drawn anew, so many items show the difference about four times in five."""
    before, after = [0.0] * 60 + [1.0] * 40, [0.0] * 40 + [1.0] * 50 + [0.0] * 10
    needed = items_needed(before, after)
    assert needed is not None
    draw, shown = Random(1), 0
    for _ in range(200):
        places = [draw.randrange(100) for _ in range(needed)]
        a, b = (predictions([bool(side[place]) for place in places]) for side in (before, after))
        shown += compare(a, b, ("a", "b")).verdict == "B is better"
    assert 130 <= shown <= 185


def test_scores_are_compared_as_scores() -> None:
    a, b = predictions([False] * 20, [10.0] * 20), predictions([False] * 20, [10.0 + n for n in range(20)])
    assert compare(a, b, ("a", "b"), "accuracy").verdict == "these items cannot tell"
    for score in (None, "contest_f1"):
        found = compare(a, b, ("a", "b"), score)
        assert (found.score, found.verdict, found.difference) == ("contest_f1", "B is better", pytest.approx(9.5))
    with pytest.raises(DataError, match=r"has no score em \(it has contest_f1, accuracy\)"):
        compare(a, b, ("a", "b"), "em")


def test_the_metric_is_the_one_that_items_were_judged_for() -> None:
    def scored(*names: str) -> list[Prediction]:
        return [Prediction("1", "p", "t", Judged("x", "k", True, dict.fromkeys(names, 50.0)), "")]

    assert metric_of(scored("contest_f1", "contest_em", "squad_f1")) == "contest_f1"
    assert metric_of(scored("rouge_l")) == "rouge_l"
    assert metric_of(scored()) == metric_of([*scored("squad_f1"), *scored()]) == "accuracy"


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="share no item"):
        compare(predictions([True]), predictions([None]), ("a", "b"))
    other = [Prediction("0", "p", "x", Judged("x", "another key", True), "kind")]
    with pytest.raises(DataError, match="the key is 'k' in A and 'another key' in B"):
        compare(predictions([True]), other, ("a", "b"))


def test_the_command(tmp_path: Path, finished_run: Path) -> None:
    for name, verdicts in (("a", [False] * 12), ("b", [True] * 12 + [True])):
        for one in predictions(verdicts):
            append_jsonl(tmp_path / f"{name}.jsonl", one.record())
    said = call("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl").stdout
    assert "B is better on 12 items, A on 0" in said
    assert "1 items that only one of the two has" in said
    assert "and 2 more: --json lists them" in said
    found = json.loads(call("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--json").stdout)
    assert (found["verdict"], len(found["differing"])) == ("B is better", 12)
    assert "B - A: +100.0 % (not estimable)" in said
    assert found["interval"] is None
    same = call("compare", finished_run, finished_run).stdout
    assert "these items cannot tell: there is no difference" in same
    assert "holds no scorecard.json" in call("compare", tmp_path, finished_run, status=2).stderr
