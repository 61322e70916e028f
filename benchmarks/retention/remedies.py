"""The sets of the benchmark, the harsh settings of every run, and the remedies with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lotune.evaluate.replay import MOST_ROWS

Settings = Mapping[str, str]
"""Values by dotted key, as a command line takes them."""

ABILITIES = ("reading", "copying", "equations")
"""The abilities that every run measures. Only reading decides the gate, and only its rows are replayed."""
OTHERS = "rows: 200, gate: false, replay: false"
"""Settings of the abilities beside reading: no remedy uses rows of them."""
HARSH: Settings = {
    "tune.learning_rate": "5e-3",
    "checkpoints.spacing": "even",
    "checkpoints.merged": "none",
    "retention.abilities": (
        f"[{{task: reading, rows: 300}}, {{task: copying, {OTHERS}}}, {{task: equations, {OTHERS}}}]"
    ),
    # The shipped recipe sets these two, which must be unset beside a list of abilities.
    "retention.rows": "null",
    "retention.validation_rows": "null",
    "retention.replay.rows": "0",
    "retention.action": "report",
    "retention.strength": "1",
}
"""Settings of every run: a high learning rate, and nothing against forgetting."""


@dataclass(frozen=True)
class TaskSet:
    """A task to tune on: its recipe, and its settings beside the harsh ones."""

    about: str
    recipe: str
    """Name of a shipped recipe, or of the file that `init` writes."""
    settings: Settings
    generated_rows: int
    """Generated rows in an epoch, where the model is trained on them; half as many where it is held to its base."""
    own_rows: bool = True
    """Whether the rows are a file of `benchmarks.own_rows`; without it, the recipe generates them."""


SETS: Mapping[str, TaskSet] = {
    "demo": TaskSet(
        "Arithmetic, the shipped recipe: 3,600 rows, one epoch, rank 1; 2,000 test questions",
        "demo",
        {"data.test_rows": "2000"},
        generated_rows=5000,
        own_rows=False,
    ),
    "reviews": TaskSet(
        "Reviews as positive or negative, a csv file of 1,200 rows, eight epochs; 1,000 test rows",
        "reviews.yaml",
        {"tune.epochs": "8", "tune.micro_batch_rows": "16", "data.test": "reviews-held-out.csv"},
        generated_rows=600,
    ),
    "orders": TaskSet(
        "The order number of a message, a jsonl file of 1,000 rows, eight epochs; 1,000 test rows",
        "orders.yaml",
        {"tune.epochs": "8", "tune.micro_batch_rows": "8", "data.test": "orders-held-out.jsonl"},
        generated_rows=400,
    ),
}
"""The sets by name."""


@dataclass(frozen=True)
class Remedy:
    """A remedy: its settings on top of the harsh ones."""

    title: str
    about: str
    settings: Settings
    continues: bool = False
    """Whether the run starts from the finished tuning of `none`, as no setting of the tuning differs."""


GENERATED_ROWS = "N"
"""Stands for the number of generated rows in an epoch of a set."""
HALF_OF_THEM = "N/2"
"""Stands for half of that number."""
ALL_GENERATED_ROWS = "M"
"""Stands for the number of generated rows of which each epoch has others, MOST_ROWS or all that an epoch needs."""


def _replay(source: str, divergence: float, rows_per_epoch: str = "auto", rows: str = "auto") -> Settings:
    return {
        "retention.replay.source": source,
        "retention.replay.rows": rows,
        "retention.replay.rows_per_epoch": rows_per_epoch,
        "retention.divergence": f"{divergence:g}",
    }


NONE = "none"
"""Name of the run without a remedy."""
REMEDIES: Mapping[str, Remedy] = {
    NONE: Remedy("none", "the harsh settings alone", {}),
    "replay-generated": Remedy(
        "replay, generated rows",
        "M generated rows of reading, 1,000 or N if that is more, on which the model is trained, N in each epoch: "
        + ", ".join(f"{one.generated_rows:,} for {name}" for name, one in SETS.items()),
        _replay("generator", 0, GENERATED_ROWS, ALL_GENERATED_ROWS),
    ),
    "replay-own": Remedy(
        "replay, own rows",
        "texts that the base writes itself, up to 600, on which the model is trained",
        _replay("base", 0),
    ),
    "divergence-generated": Remedy(
        "replay with divergence, generated rows",
        "the generated rows, half as many in each epoch, on which the model is held to the base's predictions",
        _replay("generator", 0.5, HALF_OF_THEM, ALL_GENERATED_ROWS),
    ),
    "divergence-own": Remedy(
        "replay with divergence, own rows",
        "the texts of the base, those of an epoch with a sixth of the task's tokens, on which the model is held to "
        "its base's predictions",
        _replay("base", 0.5),
    ),
    "repair-generated": Remedy(
        "repair, generated rows",
        "after the harsh tuning, further steps with 1,000 generated rows and divergence",
        {"retention.action": "repair"},
        continues=True,
    ),
    # The source is a setting of the tuning even if nothing is replayed, so the same tuning is made again.
    "repair-own": Remedy(
        "repair, own rows",
        "after the harsh tuning, further steps with texts of the base and divergence",
        {"retention.action": "repair", "retention.replay.source": "base"},
    ),
    "strength": Remedy(
        "strength",
        "after the harsh tuning, the adapter is weakened to the strength that is best on the validation rows",
        {"retention.strength": "search"},
        continues=True,
    ),
}
"""The remedies by name, which is also the name of the run. `none` comes first, as others continue its run.

A replay row has either the cross-entropy or the divergence, so there is no further remedy that adds one to the other.
"""


def run_words(verb: str, set_name: str, remedy: str) -> list[str]:
    """Return the words of a command on the run of a remedy on a set.

    >>> run_words("tune", "demo", "strength")[:3], run_words("run", "demo", "strength")[-1]
    (['tune', 'demo', 'name=strength'], 'data.test_rows=2000')
    """
    task_set = SETS[set_name]
    settings = {**HARSH, **REMEDIES[remedy].settings, **task_set.settings}
    rows = task_set.generated_rows
    numbers = {GENERATED_ROWS: rows, HALF_OF_THEM: rows // 2, ALL_GENERATED_ROWS: max(rows, MOST_ROWS["generator"])}
    return [
        verb,
        task_set.recipe,
        f"name={remedy}",
        *(f"{key}={numbers.get(value, value)}" for key, value in settings.items()),
    ]
