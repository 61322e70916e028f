"""Commands after a run that is not valid: which rule says what, and that the commands are settings of today."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lotune.errors import DataError
from lotune.evaluate.learning import CheckpointScores, LearningCourse, learning_course
from lotune.evaluate.scorecard import MajorityResult, Scorecard
from lotune.evaluate.target import ScoredExample, with_majority
from lotune.recipe import Recipe, read_recipe
from lotune.report.terminal import show_scorecard
from lotune.stages.next_steps import RULES, Outcome, next_steps
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.task import Score
from tests.evaluate.test_scorecard import KEPT, LOST, card, target

PAGE = Path(__file__).parent.parent.parent / "docs" / "scoring.md"
NO_GAIN = target(2, 2)
RISING, FLAT = LearningCourse(unfinished=True, evidence="e"), LearningCourse(unfinished=False, evidence="e")


def outcome(result: Scorecard, course: LearningCourse | None = None, **settings: Any) -> Outcome:
    recipe = Recipe.model_validate({"name": "one", "tune": {"epochs": 2.0, "learning_rate": 0.01}, **settings})
    return Outcome(result, recipe, course, cut_off=0.0, majority=0.0)


def settings_of(found: Outcome) -> list[list[str]]:
    steps = next_steps(found, Path("runs/one"))
    for step in steps:
        assert shlex.split(step.command)[:4] == ["lotune", "run", "runs/one/recipe.yaml", "name=one-next"]
        assert step.reason in PAGE.read_text(encoding="utf-8")
    return [shlex.split(step.command)[4:] for step in steps]


def test_a_valid_run_has_none() -> None:
    assert next_steps(outcome(card(), RISING), Path("runs/one")) == ()


def test_the_likeliest_comes_first() -> None:
    forgot = outcome(card(retention=LOST), FLAT)
    assert settings_of(forgot) == [["retention.replay.rows=1000"], ["tune.learning_rate=0.0033"]]
    replayed = outcome(card(retention=LOST), FLAT, retention={"replay": {"rows": 1000}})
    assert settings_of(replayed)[0] == ["retention.replay.rows=3000"]
    some = outcome(card(retention=LOST), FLAT, retention={"replay": {"rows": 1000, "rows_per_epoch": 300}})
    assert settings_of(some)[0] == ["retention.replay.rows_per_epoch=1000"]
    unfinished = outcome(card(target=NO_GAIN), RISING)
    assert settings_of(unfinished)[0] == ["tune.epochs=4"]
    steps = outcome(card(target=NO_GAIN), RISING, tune={"steps": 20, "learning_rate": 0.01})
    assert settings_of(steps)[0] == ["tune.steps=40"]
    assert settings_of(outcome(card(target=NO_GAIN), FLAT))[0] == ["tune.learning_rate=0.03"]
    cut = replace(outcome(card(target=NO_GAIN), FLAT), cut_off=0.9)
    assert settings_of(cut)[0] == [f"task.max_new_tokens={2 * cut.recipe.task.max_new_tokens}"]
    rare = replace(outcome(card(target=NO_GAIN), FLAT), majority=0.9)
    assert settings_of(rare)[0] == ["data.sample.stratify=equal"]


def test_never_right_answers_of_free_text_are_measured_by_likelihood() -> None:
    never = NO_GAIN.model_copy(update={"value": 0.0, "base_value": 0.0})
    found = outcome(card(target=never), FLAT, task={"name": "instructions"})
    assert ["task.scorer=bits-per-byte"] in settings_of(found)
    assert ["task.scorer=bits-per-byte"] not in settings_of(outcome(card(target=never), FLAT))


def test_there_are_three_at_most_and_each_can_be_run(tmp_path: Path) -> None:
    never = NO_GAIN.model_copy(update={"value": 0.0, "base_value": 0.0})
    whole = replace(
        outcome(card(target=never, retention=LOST), RISING, task={"name": "instructions"}), cut_off=1.0, majority=1.0
    )
    assert len(settings_of(whole)) == 3
    (tmp_path / "recipe.yaml").write_text("task: {name: instructions}\ntune: {epochs: 2, learning_rate: 0.01}\n")
    for rule in RULES:
        read_recipe(tmp_path / "recipe.yaml", [f"{key}={value}" for key, value in rule.settings(whole).items()])


def test_every_rule_is_in_the_docs() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## What to try next")[2].partition("\n## ")[0]
    assert [reason for reason in (rule.reason for rule in RULES) if reason not in section] == []
    assert section.count("\n| `") == len(RULES)


def test_no_gain_over_the_majority_counts_as_no_gain() -> None:
    rows = [ScoredExample(f"r{n}", "", Score("1", "1", True)) for n in range(12)]
    assert with_majority(target(12, 0), ArithmeticTask(), [], rows, "1").majority is None
    majority = MajorityResult(answer="1", value=0.9, interval=None, p_value=0.5, better=False)
    held = outcome(card(target=target(12, 0).model_copy(update={"majority": majority})), RISING)
    assert not held.improved
    assert settings_of(held)[0] == ["tune.epochs=4"]


def scored(num_correct: int, loss: float, of: int = 40, step: int = 10) -> CheckpointScores:
    return CheckpointScores(
        step, loss, [ScoredExample(str(n), "", Score("1", "1", n < num_correct)) for n in range(of)]
    )


@pytest.mark.parametrize(
    ("before", "last", "unfinished"),
    [
        (scored(10, 1.0), scored(20, 1.0), True),
        (scored(10, 1.0), scored(10, 0.9), True),
        (scored(20, 1.0), scored(21, 0.99), False),
        (scored(20, 1.0), scored(10, 1.1), False),
    ],
    ids=["rising", "falling loss", "flat", "falling"],
)
def test_the_last_checkpoints_tell_who_still_learns(
    before: CheckpointScores, last: CheckpointScores, unfinished: bool
) -> None:
    found = learning_course(ArithmeticTask(), [before, last])
    assert found is not None
    assert found.unfinished is unfinished
    # The checkpoint at half the steps counts, however alike the last two are.
    close = replace(before, step=19)
    from_half = learning_course(ArithmeticTask(), [scored(0, 5.0), close, replace(last, step=20)])
    assert from_half is not None
    assert from_half.unfinished
    assert from_half.evidence.startswith("from step 10 to 20")


def test_the_hand_in_of_an_exam_is_not_replaced() -> None:
    exam = {"name": "CoLA", "dev": "CoLA_dev.tsv"}
    steps = settings_of(outcome(card(target=NO_GAIN), RISING, exam=exam))
    assert steps[0] == ["tune.epochs=4", "exam.folder=one-next"]
    assert all(words[-1] == "exam.folder=one-next" for words in steps)


def test_a_single_checkpoint_tells_nothing() -> None:
    assert learning_course(ArithmeticTask(), [scored(3, 1.0)]) is None
    with pytest.raises(DataError):
        learning_course(ArithmeticTask(), [scored(3, 1.0), scored(3, 1.0, of=2)])


def test_the_terminal_ends_with_the_commands() -> None:
    stream, found = io.StringIO(), outcome(card(retention=LOST), FLAT)
    steps = next_steps(found, Path("runs/one"))
    show_scorecard(card(retention=LOST).model_copy(update={"next_steps": steps}), Console(file=stream, width=200))
    end = stream.getvalue().rstrip().splitlines()[-5:]
    assert end[0] == "to try next, the likeliest first:"
    assert [line.strip() for line in end[1::2]] == [step.command for step in steps]
    assert card(retention=KEPT).next_steps == ()
