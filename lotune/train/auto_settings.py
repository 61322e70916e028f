"""The settings of a tuning that are "auto": rules from the number and the length of the rows, pure functions.

The peak learning rate and the size of the adapter belong to the method (`lotune.model.methods`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from lotune.settings import is_auto
from lotune.train.schedule import tuning_steps
from lotune.train.settings import TuneSettings

EPOCHS = 8.0
"""Passes over the rows, unless that gives too few or too many steps."""
FEWEST_STEPS = 300
"""Minimum number of steps, not counting replay rows: in fewer, a format or a new word stays unlearned."""
MOST_STEPS = 1_500
"""Maximum number of steps that a tuning plans."""
MOST_EPOCHS = 60.0
"""Maximum number of passes over the rows that a tuning plans."""
STEP_TOKENS = 8_192
"""Maximum number of tokens of a step, unless FEWEST_ROWS rows have more."""
FEWEST_ROWS, MOST_ROWS = 8, 32
"""Minimum and maximum number of rows of a step."""
ROWS_OF_LARGEST_STEP = 2_048
"""Number of training rows from which on a step has MOST_ROWS rows; with half as many, a step has half as many."""
WARMUP_RATIO, WARMUP_STEPS = 0.03, 10
"""The warm-up: this fraction of the steps, but at least this number of steps."""
MUON_RATE = 1e-3
"""Peak learning rate of Muon, which normalises the length of a step by itself."""


class Choice(NamedTuple):
    """The value that stands for "auto" in a setting, and the reason."""

    value: Any
    why: str


@dataclass(frozen=True)
class RowCounts:
    """The rows of an epoch, those replayed included: their number, their tokens, and how many of them are replayed."""

    rows: int
    tokens: int
    replayed: int = 0

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row, on average."""
        return self.tokens / self.rows


def tuning_choices(settings: TuneSettings, counts: RowCounts, learning_rate: Choice) -> dict[str, Choice]:
    """Return the value of each setting that is "auto", by name; `learning_rate` is the choice of the PEFT method.

    The value of `micro_batch_rows` is the number of rows of a whole step.

    >>> chosen = tuning_choices(TuneSettings(), RowCounts(1_000, 40_000), Choice(6e-3, "LoRA"))
    >>> {name: choice.value for name, choice in chosen.items()}
    {'micro_batch_rows': 8, 'epochs': 8.0, 'warmup_ratio': 0.03, 'learning_rate': 0.006}
    """
    chosen: dict[str, Choice] = {}
    accumulated = settings.gradient_accumulation_steps
    if is_auto(settings.micro_batch_rows):
        chosen["micro_batch_rows"] = step_rows(counts)
        step = min(chosen["micro_batch_rows"].value, counts.rows)
    else:
        step = min(settings.micro_batch_rows * accumulated, counts.rows)
    if is_auto(settings.epochs) and settings.steps is None:
        chosen["epochs"] = planned_epochs(counts, step)
    epochs = chosen.get("epochs", Choice(settings.epochs, "")).value
    steps = tuning_steps(counts.rows, step, epochs, settings.steps)
    if is_auto(settings.warmup_ratio):
        chosen["warmup_ratio"] = Choice(round(max(WARMUP_RATIO, min(0.5, WARMUP_STEPS / steps)), 4), f"{steps:,} steps")
    if is_auto(settings.learning_rate):
        muon = Choice(MUON_RATE, "Muon")
        chosen["learning_rate"] = _rounded(muon if settings.optimizer == "muon" else learning_rate)
    return chosen


def step_rows(counts: RowCounts) -> Choice:
    """Return the number of rows of a step: a power of two from 8 to 32, fewer if rows are few or long.

    >>> step_rows(RowCounts(60, 3_000)).value, step_rows(RowCounts(9_000, 300_000)).value
    (8, 32)
    >>> step_rows(RowCounts(9_000, 4_500_000))
    Choice(value=16, why='9,000 rows of 500 tokens')
    """
    rows, length = MOST_ROWS, counts.mean_tokens
    while rows > FEWEST_ROWS and (counts.rows * MOST_ROWS < ROWS_OF_LARGEST_STEP * rows or rows * length > STEP_TOKENS):
        rows //= 2
    return Choice(rows, f"{counts.rows:,} rows of {length:.0f} tokens")


def planned_epochs(counts: RowCounts, step_rows: int) -> Choice:
    """Return the passes over the rows: 8, more if the task has few rows, fewer if 8 take more than 1,500 steps.

    The rows of the task are seen at least as often as in 300 steps without replay rows, within the limits.

    >>> [planned_epochs(RowCounts(rows, 0), step).value for rows, step in ((60, 8), (20_000, 32))]
    [40.0, 2.4]
    >>> planned_epochs(RowCounts(400, 0, replayed=200), 8).value
    12.0
    """
    fewest = FEWEST_STEPS * step_rows / max(1, counts.rows - counts.replayed)
    most = MOST_STEPS * step_rows / counts.rows
    epochs = round(min(max(EPOCHS, fewest), most, MOST_EPOCHS), 4)
    return Choice(epochs, f"{tuning_steps(counts.rows, step_rows, epochs, None):,} steps of {step_rows} rows")


def _rounded(choice: Choice) -> Choice:
    """Return a choice with two significant digits.

    >>> _rounded(Choice(0.0062331, "")).value
    0.0062
    """
    return Choice(float(f"{choice.value:.1e}"), choice.why)
