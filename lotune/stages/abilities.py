"""The abilities that a run measures beside the tuned task: how each is measured, and the names of its sets of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lotune.data.examples import Example
from lotune.errors import SettingsError
from lotune.evaluate.abilities import AbilitySettings
from lotune.recipe import Recipe, row_limits
from lotune.tasks.build_datasets import RETENTION_SEED, EvaluationSet, retention_test, retention_validation
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task
from lotune.tasks.user_rows import blame_setting

RETENTION = "retention"
"""Name of the set of test rows of the only ability; the names of several such sets begin with it."""
RETENTION_VALIDATION = "retention_validation"
"""Name of the set of rows on which the only ability is watched; the names of several such sets begin with it."""


@dataclass(frozen=True)
class Ability:
    """An ability of a recipe: its settings, the settings of its task, and where its rows and answers are kept."""

    settings: AbilitySettings
    task_settings: TaskSettings
    key: str
    """Dotted key of its settings in the recipe."""
    suffix: str
    """End of the names of its sets; empty if the recipe lists no abilities."""

    @property
    def label(self) -> str:
        """Name of the ability."""
        return self.settings.label

    @property
    def task(self) -> Task:
        """The task that measures it."""
        return build_task(self.task_settings)

    @property
    def test_set(self) -> str:
        """Name of its test rows, and of their file."""
        return RETENTION + self.suffix

    @property
    def validation_set(self) -> str:
        """Name of the rows on which it is watched while tuning, and of their file."""
        return RETENTION_VALIDATION + self.suffix

    def predictions_folder(self, target: str) -> str:
        """Return the name of the folder of the answers to its test rows; that of the tuned task, `target`, is taken."""
        return self.test_set if self.label == target else self.label

    def file(self, folder: Path, set_name: str) -> Path:
        """Return the file of one of its sets in a run's folder."""
        return folder / "data" / f"{set_name}.jsonl"


def abilities_of(recipe: Recipe) -> tuple[Ability, ...]:
    """Return the abilities that a recipe measures.

    Raises: SettingsError with the nearest name if a task does not exist.
    """
    retention = recipe.retention
    return tuple(
        Ability(
            settings,
            _task_settings(settings, retention.key_of(settings)),
            retention.key_of(settings),
            f"-{settings.label}" if retention.abilities else "",
        )
        for settings in retention.measured
    )


def _task_settings(settings: AbilitySettings, key: str) -> TaskSettings:
    try:
        return task_settings(settings.task, language=settings.language)
    except SettingsError as error:
        raise SettingsError(f"{key}.task", error.found, error.expected, error.remedy) from None


def retention_sets(
    recipe: Recipe, abilities: Sequence[Ability]
) -> tuple[dict[str, EvaluationSet], dict[str, Sequence[Example]]]:
    """Return, by the name of the set, the test rows of each ability and the rows on which it is watched.

    Raises: DataError for rows that cannot be used.
    """
    limits, seed, most_bytes = row_limits(recipe), recipe.seed, recipe.data.max_row_bytes
    tests, watched = dict[str, EvaluationSet](), dict[str, Sequence[Example]]()
    for one in abilities:
        with blame_setting(f"{one.key}.data"):
            aside = 0 if one.settings.validation else limits[f"{one.key}.validation_rows"]
            tests[one.test_set] = retention_test(
                one.task, one.settings.data, limits[f"{one.key}.rows"], aside, seed + RETENTION_SEED, most_bytes
            )
    asked = list(chain.from_iterable(rows.examples for rows in tests.values()))
    for one in abilities:
        with blame_setting(f"{one.key}.validation"):
            watched[one.validation_set] = retention_validation(
                one.task, one.settings.validation, limits[f"{one.key}.validation_rows"], seed, asked,
                one.settings.data, most_bytes,
            )  # fmt: skip
    return tests, watched
