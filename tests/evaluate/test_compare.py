"""Comparing predictions: the tests' figures, the plain sentence, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.evaluate.compare import compare_predictions, metric_of, required_sample_size
from lotune.evaluate.facts import Facts
from lotune.evaluate.predict import Prediction, read_predictions
from lotune.record_files import append_record
from lotune.tasks.task import Score

FACTS = Facts("arithmetic", "exact", "alpaca", "greedy, 64 new tokens at most")


def predictions(verdicts: Sequence[bool | None], scores: Sequence[float] | None = None) -> list[Prediction]:
    given = [{"contest_f1": score} for score in scores] if scores else [{}] * len(verdicts)
    return [
        Prediction(str(n), f"p{n}", f"answer {right}", Score("x", "k", right, values), "kind", facts=FACTS)
        for n, (right, values) in enumerate(zip(verdicts, given, strict=True))
    ]


def test_one_that_is_clearly_better() -> None:
    a, b = predictions([False] * 30 + [True] * 30), predictions([True] * 55 + [False] * 5)
    results = compare_predictions(a, b, ("a", "b"))
    assert (results.n, results.b_better_on, results.a_better_on, results.verdict) == (60, 30, 5, "B is better")
    assert results.difference == pytest.approx(25 / 60)
    assert results.interval.low > 0
    assert compare_predictions(b, a, ("b", "a")).verdict == "A is better"
    assert [item.better for item in results.differing] == ["B"] * 30 + ["A"] * 5


def test_items_that_cannot_tell() -> None:
    result = compare_predictions(predictions([True, False, True]), predictions([True, True, False]), ("a", "b"))
    assert (result.verdict, result.required_sample_size, result.difference) == ("these items cannot tell", None, 0.0)
    few = compare_predictions(
        predictions([True, False, False, None]), predictions([True, True, False, True]), ("a", "b")
    )
    assert (few.verdict, few.n, few.unmatched) == ("these items cannot tell", 3, 0)
    assert few.required_sample_size is not None
    assert few.required_sample_size > 3


@pytest.mark.parametrize(
    ("drawings", "least", "most"), [(40, 24, 39), pytest.param(200, 130, 185, marks=pytest.mark.soak)]
)
def test_the_items_needed_have_the_power_that_they_promise(drawings: int, least: int, most: int) -> None:
    """Drawn anew, so many items show the difference about four times in five."""
    before, after = [0.0] * 60 + [1.0] * 40, [0.0] * 40 + [1.0] * 50 + [0.0] * 10
    needed = required_sample_size(before, after)
    assert needed is not None
    draw, significant = Random(1), 0
    for _ in range(drawings):
        positions = [draw.randrange(100) for _ in range(needed)]
        a, b = (predictions([bool(side[position]) for position in positions]) for side in (before, after))
        significant += compare_predictions(a, b, ("a", "b")).verdict == "B is better"
    assert least <= significant <= most


def test_scores_are_compared_as_scores() -> None:
    a, b = predictions([False] * 20, [10.0] * 20), predictions([False] * 20, [10.0 + n for n in range(20)])
    assert compare_predictions(a, b, ("a", "b"), "accuracy").verdict == "these items cannot tell"
    for score in (None, "contest_f1"):
        result = compare_predictions(a, b, ("a", "b"), score)
        assert (result.score, result.verdict, result.difference) == ("contest_f1", "B is better", pytest.approx(9.5))
    with pytest.raises(DataError, match=r"has no score em \(it has contest_f1, accuracy\)"):
        compare_predictions(a, b, ("a", "b"), "em")


def test_the_metric_is_that_of_the_items() -> None:
    def scored(*names: str) -> list[Prediction]:
        return [Prediction("1", "p", "t", Score("x", "k", True, dict.fromkeys(names, 50.0)), "")]

    assert metric_of(scored("contest_f1", "contest_em", "squad_f1")) == "contest_f1"
    assert metric_of(scored("rouge_l")) == "rouge_l"
    assert metric_of(scored()) == metric_of([*scored("squad_f1"), *scored()]) == "accuracy"


def test_files_that_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="share no item"):
        compare_predictions(predictions([True]), predictions([None]), ("a", "b"))
    other = [Prediction("0", "p0", "x", Score("x", "another key", True), "kind", facts=FACTS)]
    with pytest.raises(DataError, match="the key is 'k' in A and 'another key' in B"):
        compare_predictions(predictions([True]), other, ("a", "b"))


@pytest.mark.parametrize("fact", ["task", "scorer", "template", "protocol"])
def test_answers_with_different_protocols_are_refused(fact: str) -> None:
    a, b = predictions([True, False]), predictions([True, True])
    other = [replace(item, facts=replace(FACTS, **{fact: "another"})) for item in b]
    with pytest.raises(DataError, match=f"{fact}: '.*' in A, 'another' in B"):
        compare_predictions(a, other, ("a", "b"))
    with pytest.raises(DataError, match=f"b: {fact}: '.*' in item 0, 'another' in item 1"):
        compare_predictions(a, [b[0], other[1]], ("a", "b"))


def test_other_prompts_are_refused_by_their_digests() -> None:
    a, b = predictions([True, False, True]), predictions([True, True, True])
    b[1] = replace(b[1], prompt="another question")
    with pytest.raises(
        DataError, match=r"1 of 3 items have different prompts .* the first is 1 \(sha256 \w+ in A, \w+ in B"
    ):
        compare_predictions(a, b, ("a", "b"))
    only_a = predictions([True, False, True, True])
    only_a[3] = replace(only_a[3], prompt="what B does not have")
    assert compare_predictions(only_a, predictions([True, True, True]), ("a", "b")).unmatched == 1


def test_repeated_ids_are_refused() -> None:
    a = predictions([True, False])
    for sides in ((a + a[:1], a), (a, a + a[:1])):
        with pytest.raises(DataError, match="1 ids occur more than once, the first is 0"):
            compare_predictions(*sides, ("a", "b"))


@given(st.sampled_from(["task", "scorer", "template", "protocol", "id", "prompt", "key"]), st.integers(0, 4))
def test_any_one_difference_is_found_in_either_direction(changed: str, place: int) -> None:
    a, b = predictions([True] * 5), predictions([False] * 5)
    one = b[place]
    if changed == "id":
        b[place] = replace(one, example_id=str((place + 1) % 5))
    elif changed == "prompt":
        b[place] = replace(one, prompt="another")
    elif changed == "key":
        b[place] = replace(one, score=replace(one.score, reference="another"))
    else:
        b[place] = replace(one, facts=replace(FACTS, **{changed: "another"}))
    for sides in ((a, b), (b, a)):
        with pytest.raises(DataError):
            compare_predictions(*sides, ("a", "b"))


def test_facts_survive_the_file_and_lines_without_them_are_refused(tmp_path: Path) -> None:
    stored, older = tmp_path / "kept.jsonl", tmp_path / "older.jsonl"
    for item in predictions([True, False]):
        append_record(stored, item.record())
        append_record(older, replace(item, facts=None).record())
    assert read_predictions(stored) == predictions([True, False])
    assert [item.facts for item in read_predictions(older)] == [None, None]
    error = call("compare", stored, older, status=2).stderr
    assert "older.jsonl: item 0 lacks task, scorer, template or protocol" in error
    (tmp_path / "empty.jsonl").touch()
    assert "holds no predictions" in call("compare", stored, tmp_path / "empty.jsonl", status=2).stderr


def test_answers_with_different_scorers_are_not_compared(small_base: Path, tmp_path: Path) -> None:
    def evaluated(name: str, *more: Any) -> Path:
        data, out = tmp_path / "rows.jsonl", tmp_path / f"{name}.jsonl"
        data.write_text(
            "".join(json.dumps({"problem": f"计算 {n} + 1 等于多少？", "solution": str(n)}) + "\n" for n in range(3))
        )
        given = ("task.max_new_tokens=4", *more)
        call("evaluate", "--model", small_base, "--task", "arithmetic", "--data", data, "--out", out, *given)
        return out

    strict = evaluated("strict", "task.scorer=exact")
    refused = {
        "scorer: 'exact' in A, 'relative:0.1' in B": evaluated("loose", "task.scorer=relative:0.1"),
        "template: 'alpaca' in A, 'plain' in B": evaluated("plain", "task.scorer=exact", "task.template=plain"),
        "4 new tokens at most' in A, 'greedy, 5 new": evaluated("long", "task.scorer=exact", "task.max_new_tokens=5"),
        "template: 'alpaca' in A, 'alpaca, instruction prefix": evaluated(
            "said", "task.scorer=exact", "task.instruction_prefix=Well"
        ),
    }
    for clause, other in refused.items():
        assert clause in call("compare", strict, other, status=2).stderr
    result = json.loads(call("compare", strict, strict, "--json").stdout)
    assert result["facts"] == {
        "task": "arithmetic", "scorer": "exact", "template": "alpaca", "protocol": "greedy, 4 new tokens at most"
    }  # fmt: skip
    assert len(result["prompts"]) == 64
    again = evaluated("loose", "task.scorer=exact")
    assert "these items cannot tell" in call("compare", strict, again).stdout, "judged again, in the same file"


def test_the_command(tmp_path: Path, finished_run: Path) -> None:
    for name, verdicts in (("a", [False] * 12), ("b", [True] * 12 + [True])):
        for prediction in predictions(verdicts):
            append_record(tmp_path / f"{name}.jsonl", prediction.record())
    output = call("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl").stdout
    assert "B is better on 12 items, A on 0" in output
    assert "1 items are in one file only" in output
    assert "and 2 more: --json lists them" in output
    result = json.loads(call("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--json").stdout)
    assert (result["verdict"], len(result["differing"])) == ("B is better", 12)
    assert "B - A: +100.0 % (not estimable)" in output
    assert result["interval"] is None
    same = call("compare", finished_run, finished_run).stdout
    assert "these items cannot tell: there is no difference" in same
    assert "has no scorecard.json" in call("compare", tmp_path, finished_run, status=2).stderr
