"""The scorecard: figures from verdicts, validity, and its file."""

from pathlib import Path

import orjson
import pytest
from pydantic import ValidationError

from lotune.errors import DataError, RunError
from lotune.evaluate.retention import gate
from lotune.evaluate.scorecard import (
    Check,
    Checkpoint,
    ContestScore,
    Scorecard,
    Target,
    best_on_test,
    make_scorecard,
    measure_parameters,
    read_scorecard,
    write_scorecard,
)
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.reading.task import ReadingTask
from lotune.tasks.task import Score

KEPT = gate({"contest_f1": 60.0, "contest_em": 50.0}, {"contest_f1": 59.0, "contest_em": 46.0})
LOST = gate({"contest_f1": 60.0, "contest_em": 50.0}, {"contest_f1": 59.0, "contest_em": 44.0})


def verdicts(*right: bool | None) -> list[ScoredExample]:
    kinds = ("+", "english")
    return [ScoredExample(f"r{n}", kinds[item is None], Score("1", "1", item)) for n, item in enumerate(right)]


def target(gained: int = 10, lost: int = 1) -> Target:
    base = verdicts(*[False] * gained, *[True] * lost, True, None)
    tuned = verdicts(*[True] * gained, *[False] * lost, True, None)
    return measure_target(ArithmeticTask(), base, tuned)


def card(**changes: object) -> Scorecard:
    parts: dict = {
        "target": target(),
        "retention": KEPT,
        "parameters": measure_parameters(1000, 200_000, "measured"),
        "score": ContestScore(rule="phase1", value=0.7, rank=4, published=20),
        "chosen_checkpoint": "step-20",
        "checkpoints": [Checkpoint(name="step-10", step=10), Checkpoint(name="step-20", step=20, value=0.9)],
        "checks": [Check(name="merge", passed=True)],
    }
    return make_scorecard(**{**parts, **changes})


def test_the_targets_figures() -> None:
    result = target()
    assert (result.task, result.metric, result.scorer, result.score) == (
        "arithmetic",
        "accuracy",
        "significant:5",
        None,
    )
    assert (result.n, result.unjudgeable, result.gained, result.lost) == (12, 1, 10, 1)
    assert result.value == pytest.approx(11 / 12)
    assert result.base_value == pytest.approx(2 / 12)
    assert result.p_value == pytest.approx(12 / 2048)
    assert result.better
    assert result.interval.low < result.value < result.interval.high
    assert result.by_category["+"].n == 12
    assert result.by_category["english"].model_dump() == {
        "n": 0,
        "value": None,
        "base_value": None,
        "interval": None,
        "unjudgeable": 1,
        "base_interval": None,
    }
    values = result.by_category["+"].base_interval
    assert values is not None
    assert values == result.base_interval


def test_rows_are_paired_by_id_not_by_order() -> None:
    base, tuned = verdicts(True, False, False), verdicts(True, True, True)
    task = ArithmeticTask()
    assert measure_target(task, base, tuned[::-1]) == measure_target(task, base[::-1], tuned)


def test_a_mean_of_scores() -> None:
    def scored(*f1: float) -> list[ScoredExample]:
        return [
            ScoredExample(str(n), "", Score("", "", item == 100, {"contest_f1": item})) for n, item in enumerate(f1)
        ]

    result = measure_target(ReadingTask(), scored(*[0.0] * 20), scored(*[50.0] * 19, 100.0))
    assert (result.task, result.metric, result.score) == ("reading", "contest_f1", "contest_f1")
    assert (result.value, result.base_value, result.better) == (52.5, 0.0, True)
    assert result.difference_interval is not None
    assert result.by_category == {}


def test_other_rows_are_refused() -> None:
    with pytest.raises(DataError, match="the same rows"):
        measure_target(ArithmeticTask(), verdicts(True), verdicts(True, False))
    with pytest.raises(DataError, match="the same rows"):
        measure_target(ArithmeticTask(), verdicts(True) * 2, verdicts(True) * 2)
    with pytest.raises(DataError, match="none of 1 rows"):
        measure_target(ArithmeticTask(), verdicts(None), verdicts(None))


def test_valid() -> None:
    assert card().valid
    assert card().reasons == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": target(2, 1)}, "not better than the base beyond chance"),
        ({"retention": LOST}, "contest_em: 88.0% of the base kept, 90% needed"),
        ({"retention": []}, "retention was not measured"),
        ({"retention": gate({"contest_f1": 1.0}, {"contest_f1": 9.0})}, "not measurable, the base has 1.00 points"),
        ({"checks": [Check(name="merge", passed=False)]}, "the check merge failed"),
    ],
)
def test_not_valid(changes: dict, words: str) -> None:
    result = card(**changes)
    assert not result.valid
    assert len(result.reasons) == 1
    assert words in result.reasons[0]


def test_the_contests_rule_needs_all_checkpoints() -> None:
    points = [Checkpoint(name=f"s{n}", step=n, value=value, score=value) for n, value in ((1, 0.5), (2, 0.7), (3, 0.7))]
    rule = best_on_test(points)
    assert rule is not None
    assert (rule.checkpoint, rule.value) == ("s2", 0.7)
    assert best_on_test([*points, Checkpoint(name="s4", step=4)]) is None
    assert best_on_test([]) is None


def test_the_file_holds_the_card(tmp_path: Path) -> None:
    path = tmp_path / "scorecard.json"
    write_scorecard(path, card())
    assert read_scorecard(path) == card()
    content = orjson.loads(path.read_bytes())
    assert set(content) >= {
        *("target", "retention", "parameters", "score", "chosen_checkpoint", "checkpoints", "checks", "valid")
    }
    assert set(content["target"]) >= {"task", "metric", "value", "base_value", "interval", "n", "by_kind"}
    assert set(content["retention"][0]) >= {"task", "metric", "base", "tuned", "retained", "threshold", "passed"}
    assert set(content["parameters"]) >= {"trainable", "total", "ratio", "convention"}
    assert set(content["score"]) >= {"rule", "value"}
    assert content["parameters"]["ratio"] == 0.005


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scorecard.json"
    path.write_text('{"valid": true}')
    with pytest.raises(RunError, match="is not a scorecard"):
        read_scorecard(path)


def test_no_figure_is_nan() -> None:
    with pytest.raises(ValidationError):
        ContestScore(rule="phase1", value=float("nan"))
