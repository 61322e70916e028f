"""Commands to try after a run that is not valid: a table of rules, the likeliest remedy first.

To add a rule, append a row to RULES and a line to the table of docs/scoring.md, "What to try next".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lotune.evaluate.learning import LearningCourse
from lotune.evaluate.predict import read_predictions
from lotune.evaluate.scorecard import NextStep, Scorecard, next_name
from lotune.model.loading import NANO
from lotune.recipe import Recipe
from lotune.settings import is_auto
from lotune.tasks.scorers import REFERENCE_SCORER

MOST_STEPS = 3
"""Maximum number of commands to show."""
REPLAY_ROWS = 1_000
"""Replay rows to begin with."""
CUT_OFF = 0.5
"""Fraction of the answers that end at task.max_new_tokens from which on they count as cut off."""
RARE = 0.65
"""Fraction of the training rows with the majority answer from which on the other answers are rare."""


@dataclass(frozen=True)
class Outcome:
    """What the rules look at: the scorecard, the recipe with numbers in place of "auto", and the course of learning.

    `cut_off` is the fraction of the tuned model's answers that ended at the maximum length, `majority` that of the
    training rows with the majority answer.
    """

    card: Scorecard
    recipe: Recipe
    course: LearningCourse | None
    cut_off: float
    majority: float

    @property
    def improved(self) -> bool:
        """Whether the model is better than the base and the majority answer."""
        target = self.card.target
        return target.better and (target.majority is None or target.majority.better)

    @property
    def unfinished(self) -> bool:
        """Whether the tuning was still learning at its last checkpoint."""
        return self.course is not None and self.course.unfinished

    @property
    def replayed(self) -> int:
        """The number of replay rows."""
        rows = self.recipe.retention.replay.rows
        return self.card.replay.rows if rows == "auto" else rows

    @property
    def replayed_per_epoch(self) -> int:
        """The number of replay rows of an epoch."""
        rows = self.recipe.retention.replay.rows_per_epoch
        return self.replayed if is_auto(rows) else rows

    @property
    def forgot(self) -> bool:
        """Whether a gated metric that can be measured kept too little."""
        return any(line.is_gated and not line.passed and line.retained is not None for line in self.card.retention)


@dataclass(frozen=True)
class Rule:
    """A condition, the settings to change if it holds, and why."""

    applies: Callable[[Outcome], bool]
    settings: Callable[[Outcome], Mapping[str, Any]]
    reason: str


def _longer(outcome: Outcome) -> Mapping[str, Any]:
    tune = outcome.recipe.tune
    return {"tune.steps": 2 * tune.steps} if tune.steps is not None else {"tune.epochs": f"{2 * float(tune.epochs):g}"}


def _rate(factor: float) -> Callable[[Outcome], Mapping[str, Any]]:
    return lambda outcome: {"tune.learning_rate": f"{factor * float(outcome.recipe.tune.learning_rate):.2g}"}


RULES: tuple[Rule, ...] = (
    Rule(
        lambda outcome: outcome.forgot and outcome.replayed < REPLAY_ROWS,
        lambda _: {"retention.replay.rows": REPLAY_ROWS},
        "the model forgot what the gate measures; general rows among the training rows keep it",
    ),
    Rule(
        lambda outcome: outcome.forgot and outcome.replayed_per_epoch < outcome.replayed,
        lambda outcome: {
            "retention.replay.rows_per_epoch": max(1, min(outcome.replayed, 4 * outcome.replayed_per_epoch))
        },
        "the model forgot despite replay; more replay rows in each epoch keep more",
    ),
    Rule(
        lambda outcome: outcome.forgot and outcome.replayed >= REPLAY_ROWS,
        lambda outcome: {"retention.replay.rows": 3 * outcome.replayed},
        "the model forgot despite replay; more replay rows keep more",
    ),
    Rule(
        lambda outcome: not outcome.improved and outcome.cut_off > CUT_OFF,
        lambda outcome: {"task.max_new_tokens": 2 * outcome.recipe.task.max_new_tokens},
        "most answers were cut off at the maximum length",
    ),
    Rule(
        lambda outcome: not outcome.improved and outcome.unfinished,
        _longer,
        "the tuning had not finished learning at its last checkpoint",
    ),
    Rule(
        lambda outcome: not outcome.improved and outcome.majority > RARE,
        lambda _: {"data.sample.stratify": "equal"},
        "most training rows have one answer; as many rows of each answer teach the others",
    ),
    Rule(
        lambda outcome: not outcome.improved and not outcome.unfinished,
        _rate(3.0),
        "the tuning no longer learnt; a higher learning rate changes the model more",
    ),
    Rule(
        lambda outcome: not outcome.improved and _never_right(outcome),
        lambda _: {"task.scorer": "bits-per-byte"},
        "no answer was right before or after; the likelihood of the references moves first",
    ),
    Rule(
        lambda outcome: outcome.forgot,
        _rate(1 / 3),
        "smaller steps change less of what the base can do",
    ),
    Rule(
        lambda outcome: not outcome.improved and outcome.recipe.base.model == NANO,
        lambda _: {"base.model": "FOLDER"},
        "nano has 2 million parameters, for practice; a real model (FOLDER) can learn more",
    ),
    Rule(
        lambda outcome: (
            not outcome.recipe.retention.abilities
            and any(line.is_gated and line.retained is None for line in outcome.card.retention)
        ),
        lambda _: {"retention.data": "FILE"},
        "the base cannot do what the gate measures; measure an ability that it has, on rows of your own (FILE)",
    ),
)
"""The rules in the order in which their commands are shown."""


def _never_right(outcome: Outcome) -> bool:
    """Return whether no answer was right, of a task that can score its references instead."""
    target, settings = outcome.card.target, outcome.recipe.task
    if target.value or target.base_value or settings.scorer_changes_targets:
        return False
    try:
        type(settings).model_validate({**settings.model_dump(), "scorer": REFERENCE_SCORER})
    except ValidationError:
        return False
    return True


def next_steps(outcome: Outcome, folder: Path) -> tuple[NextStep, ...]:
    """Return at most three commands for a run that is not valid, each a new run with other settings."""
    if outcome.card.valid:
        return ()
    steps: dict[tuple[str, ...], NextStep] = {}
    for rule in RULES:
        if rule.applies(outcome):
            settings = rule.settings(outcome)
            words = tuple(f"{key}={value}" for key, value in {**settings, **_folder_of_exam(outcome, folder)}.items())
            step = NextStep(settings=words, reason=rule.reason, recipe=folder / "recipe.yaml")
            # A second rule for a setting would contradict the first.
            steps.setdefault(tuple(settings), step)
    return tuple(steps.values())[:MOST_STEPS]


def _folder_of_exam(outcome: Outcome, folder: Path) -> Mapping[str, Any]:
    """Return the setting with which the hand-in of another run does not replace that of this one."""
    return {} if outcome.recipe.exam is None else {"exam.folder": next_name(folder)}


def with_guidance(
    card: Scorecard, recipe: Recipe, tuning: Mapping[str, Any], counts: Mapping[str, Any], folder: Path
) -> Scorecard:
    """Return the scorecard of a run that is not valid with its course of learning and commands to try next."""
    if card.valid:
        return card
    answers = read_predictions(folder / "predictions" / card.target.task / f"{card.chosen_checkpoint}.jsonl")
    cut_off = sum(answer.finish_reason == "length" for answer in answers) / max(1, len(answers))
    majority = counts.get("majority") or {"rows": 0, "of": 1}
    course = LearningCourse(**tuning["learning"]) if tuning.get("learning") else None
    outcome = Outcome(card, recipe, course, cut_off, majority["rows"] / majority["of"])
    learning = ""
    if course is not None and course.unfinished:
        learning = f"the tuning had not finished learning: {course.evidence}"
    elif course is not None and not outcome.improved:
        learning = f"the tuning does not learn it with these settings: {course.evidence}"
    return card.model_copy(update={"learning": learning, "next_steps": next_steps(outcome, folder)})
