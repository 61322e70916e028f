"""An example's earlier turns, and training rows that an evaluation set asks in one of their turns."""

from __future__ import annotations

from lotune.data.curation import remove_contaminated
from lotune.data.examples import Example, Turn


def conversation(scored: bool) -> Example:
    return Example("train", "What?This.And?", "That.", earlier_turns=(Turn("What?", "This.", scored),))


def test_an_earlier_question_of_the_test_is_contamination() -> None:
    asked = {"test": [Example("test", "What ?", "")], "other": [Example("other", "What?", "")]}
    remaining, report = remove_contaminated([conversation(True)], asked)
    assert remaining == []
    assert (report.removed, report.sets["other"].exact, report.sets["other"].seen) == (1, 1, 1)
    remaining, report = remove_contaminated([conversation(False)], asked)
    assert len(remaining) == 1
    assert report.removed == 0
