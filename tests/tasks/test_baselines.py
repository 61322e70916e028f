"""The majority answer, chance, and scorers that cannot move."""

from __future__ import annotations

import pytest

from lotune.data.examples import Example
from lotune.errors import SettingsError
from lotune.evaluate.scorecard import why_not_valid
from lotune.evaluate.target import ScoredExample, measure_target, with_majority
from lotune.tasks.baselines import MajorityAnswer, chance, majority_answer
from lotune.tasks.checks import require_fitting_scorer
from lotune.tasks.custom import CustomSettings, CustomTask
from lotune.tasks.multiple_choice import MultipleChoiceTask
from lotune.tasks.sentence_classification import SentenceClassificationTask, SentencesSettings
from lotune.tasks.task import Score, Task
from tests.evaluate.test_scorecard import KEPT

LABELS = {"0": "bad", "1": "good"}
SENTENCES = SentenceClassificationTask(SentencesSettings(labels=LABELS))
CHOICE = MultipleChoiceTask()


def rows(task: Task, *answers: str) -> list[Example]:
    options = ("1", "2", "3", "4") if task.name == "choice" else ()
    return [Example(f"r{n}", "p", answer, (answer,), choices=options) for n, answer in enumerate(answers)]


def test_the_majority_is_that_of_the_training_rows() -> None:
    train = rows(SENTENCES, "good", "bad", "bad")
    assert majority_answer(SENTENCES, train) == MajorityAnswer("bad", 2, 3)
    copies = [Example("c", "p", "good", ("good",), augmented_from="r0")] * 5
    assert majority_answer(SENTENCES, [*train, *copies]) == MajorityAnswer("bad", 2, 3)
    assert majority_answer(SENTENCES, rows(SENTENCES, "good", "bad")) == MajorityAnswer("bad", 1, 2)
    assert majority_answer(CustomTask(), rows(CustomTask(), "a", "a")) is None
    label = CustomTask(CustomSettings(scorer="label", labels=LABELS))
    assert majority_answer(label, rows(label, "good")) == MajorityAnswer("good", 1, 1)


def test_chance_is_one_of_the_options() -> None:
    assert chance(SENTENCES, rows(SENTENCES, "good", "bad")) == 0.5
    assert chance(CHOICE, rows(CHOICE, "A", "C")) == 0.25
    assert chance(CustomTask(), rows(CustomTask(), "a")) is None


@pytest.mark.parametrize("task", [SENTENCES, CHOICE], ids=lambda task: task.name)
def test_better_than_a_base_without_a_format_is_not_enough(task: Task) -> None:
    words = ("bad", "good") if task is SENTENCES else ("A", "B")
    examples = rows(task, *words * 40)

    def answered(num_correct: int) -> list[ScoredExample]:
        return [ScoredExample(row.id, "", Score("x", "x", n < num_correct)) for n, row in enumerate(examples)]

    for num_correct, valid in ((27, False), (40, False), (75, True)):
        target = measure_target(task, answered(0), answered(num_correct))
        target = with_majority(target, task, examples, answered(num_correct), words[0])
        assert target.better
        assert target.majority is not None
        assert target.majority.value == 0.5
        assert target.majority.better is valid
        reasons = why_not_valid(target, KEPT, [])
        assert reasons == [] if valid else f"always {words[0]!r}" in reasons[0]


@pytest.mark.parametrize("scorer", ["exact", "contains"])
@pytest.mark.parametrize("answer", ["word " * 80, "在云南省的昆明市" * 20], ids=["english", "chinese"])
def test_a_measure_that_cannot_move_is_refused(scorer: str, answer: str) -> None:
    task = CustomTask(CustomSettings(scorer=scorer))
    with pytest.raises(SettingsError, match=f"(?s){scorer} on answers of 80 words .* cannot move.*bits-per-byte"):
        require_fitting_scorer(task, rows(task, answer, answer, "short"))
    require_fitting_scorer(task, rows(task, answer, "short", "short"))
    task = CustomTask(CustomSettings(scorer="bits-per-byte"))
    require_fitting_scorer(task, rows(task, answer))
