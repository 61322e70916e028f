"""The claims of a scorecard: passed, failed or not applicable, each with its evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lotune.evaluate.retention import gate
from lotune.evaluate.scorecard import Check
from lotune.evaluate.scorecard_claims import (
    budget_claim,
    gain_claim,
    gate_claim,
    merge_claim,
    overlap_claim,
    spacing_claim,
    template_claim,
)
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.report.sections import claims_table
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.task import Score


def test_one_template() -> None:
    alpaca, plain = {"name": "alpaca", "with_input": "a"}, {"name": "plain", "with_input": "b"}
    assert template_claim(alpaca, {"s/adapter": alpaca, "s/merged": alpaca}).passed
    failed = template_claim(alpaca, {"s/adapter": alpaca, "s/merged": plain})
    assert failed.result == "failed"
    assert "s/merged carries 'plain', the evaluation used 'alpaca'" in failed.detail
    assert template_claim(alpaca, {"s/adapter": {**alpaca, "with_input": "c"}}).result == "failed"
    assert template_claim(alpaca, {}).result == "not applicable"


def test_merge() -> None:
    passed, failed = Check(name="merge", passed=True, detail="fine"), Check(name="merge", passed=False, detail="off")
    assert merge_claim([passed, passed], mergeable=True).result == "passed"
    assert merge_claim([passed, failed], mergeable=True).detail == "off"
    assert merge_claim([passed, failed], mergeable=True).result == "failed"
    for mergeable, reason in ((True, "no checkpoint was merged"), (False, "cannot be merged")):
        claim = merge_claim([], mergeable=mergeable)
        assert claim.result == "not applicable"
        assert reason in claim.detail


def test_overlap() -> None:
    rows = {"test": 12, "retention": 6}
    assert overlap_claim({"test": 0, "retention": 0}, rows, 3).passed
    failed = overlap_claim({"test": 2, "retention": 0}, rows, 0)
    assert failed.result == "failed"
    assert "2 of 12 test rows are training rows, too" in failed.detail
    assert overlap_claim(None, rows, 0).result == "not applicable"


def test_gate_and_gain() -> None:
    base = {"contest_f1": 60.0, "contest_em": 50.0}
    assert gate_claim(gate(base, base)).passed
    assert gate_claim(gate(base, {**base, "contest_em": 10.0})).result == "failed"
    assert gate_claim([]).result == "not applicable"
    assert "not measurable" in gate_claim(gate({"contest_f1": 1.0}, {"contest_f1": 1.0})).detail

    def rows(right: int) -> list[ScoredExample]:
        return [ScoredExample(str(number), "", Score("", "", number < right)) for number in range(10)]

    assert gain_claim(measure_target(ArithmeticTask(), rows(0), rows(9))).passed
    assert gain_claim(measure_target(ArithmeticTask(), rows(5), rows(6))).result == "failed"


@pytest.mark.parametrize(
    ("budget", "result"), [(None, "not applicable"), (0.0005, "failed"), (0.001, "passed"), (0.1, "passed")]
)
def test_budget(budget: float | None, result: str) -> None:
    assert budget_claim(budget, 0.001).result == result


def test_spacing() -> None:
    assert spacing_claim([2, 4, 6, 8, 10], 10).passed
    failed = spacing_claim([2, 4, 6, 8, 9], 10)
    assert failed.result == "failed"
    assert failed.detail == "after 2, 4, 6, 8, 9 of 10 steps, evenly spaced would be 2, 4, 6, 8, 10"
    assert spacing_claim([], 10).result == "failed"


def test_a_scorecard_of_an_older_lotune_has_no_claims(finished_run: Path) -> None:
    from lotune.evaluate.scorecard import Scorecard

    record = json.loads((finished_run / "scorecard.json").read_text())
    record.pop("claims")
    card = Scorecard.model_validate(record)
    assert card.claims == ()
    assert claims_table(card).rows == ()
