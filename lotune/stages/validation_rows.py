"""The rows that checkpoints answer while tuning: those of the task, and those of the abilities to retain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lotune.data.examples import Example
from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.facts import Facts, facts_of
from lotune.evaluate.predict import Prediction, keep_predictions, read_predictions
from lotune.recipe import Recipe
from lotune.record_files import write_records
from lotune.stages.abilities import abilities_of
from lotune.stages.own_answers import OWN_ANSWERS, own_answer_settings
from lotune.stages.prepare import read_examples
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task

ANSWERS = "validation"
"""Folder of a run that holds each checkpoint's answers to the validation rows."""
BASE = "base"
"""Name of the untuned model's answers."""

SHOWN_ROWS = 5
"""Number of the task's rows that the base answers, too: its answers are shown beside those of checkpoints."""


@dataclass(frozen=True)
class ValidationRows:
    """Rows with their task, and the folder of the answers to them: one file for each checkpoint."""

    task: Task
    settings: TaskSettings
    examples: list[Example]
    folder: Path
    ability: AbilitySettings | None = None
    """The ability that they watch; None for the rows of the task that is tuned."""

    def file(self, name: str) -> Path:
        """Return the file with the answers of a checkpoint, or of the base."""
        return self.folder / f"{name}.jsonl"

    def first(self) -> ValidationRows:
        """Return the first rows alone, those that the base answers for a page to show."""
        return replace(self, examples=self.examples[:SHOWN_ROWS])

    def facts(self, recipe: Recipe) -> Facts:
        """Return the facts that answers to these rows have in common."""
        return facts_of(self.settings, self.task, on_too_long=recipe.evaluate.on_too_long)

    def store(self, recipe: Recipe, name: str, answers: list[Prediction]) -> None:
        """Write the answers of a checkpoint, or of the base."""
        facts = self.facts(recipe)
        write_records(self.file(name), (replace(answer, facts=facts).record() for answer in answers))

    def stored(self, recipe: Recipe, name: str) -> list[Prediction] | None:
        """Return the stored answers, scored again; None unless there is one of the present protocol to every row."""
        file, facts = self.file(name), self.facts(recipe)
        answers = read_predictions(file) if file.exists() else []
        # The scorer is the one fact that does not change an answer.
        if any(old.facts is None or replace(old.facts, scorer=facts.scorer) != facts for old in answers):
            file.unlink()
        scored = keep_predictions(self.task, self.examples, file, facts, references_only=True)
        return [scored[index] for index in range(len(scored))] if len(scored) == len(self.examples) else None


def task_validation_rows(recipe: Recipe) -> ValidationRows:
    """Return the task's validation rows of a prepared run."""
    examples = read_examples(recipe.folder / "data" / "validation.jsonl")
    return ValidationRows(build_task(recipe.task), recipe.task, examples, recipe.folder / ANSWERS)


def retention_validation_rows(recipe: Recipe) -> tuple[ValidationRows, ...]:
    """Return the rows on which the retention gate of a prepared run is watched, those of each ability apart."""
    watched = []
    for one in abilities_of(recipe):
        path = one.file(recipe.folder, one.validation_set)
        examples = read_examples(path) if path.exists() else []
        if examples:
            folder = recipe.folder / ANSWERS / one.test_set
            watched.append(ValidationRows(one.task, one.task_settings, examples, folder, one.settings))
    path = recipe.folder / "data" / f"{OWN_ANSWERS}.jsonl"
    if path.exists() and (examples := read_examples(path)):
        settings, ability = own_answer_settings()
        folder = recipe.folder / ANSWERS / OWN_ANSWERS
        watched.append(ValidationRows(build_task(settings), settings, examples, folder, ability))
    return tuple(watched)
