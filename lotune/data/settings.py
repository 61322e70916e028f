"""Settings of the data: source and number of rows, and handling of rows that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.settings import Settings

Stratify = Literal["none", "proportional", "equal"]
"""How a sample treats the kinds of rows."""


class SampleSettings(Settings):
    """Sample of the training rows."""

    rows: int | None = Field(None, ge=1)
    """How many training rows to draw; null takes all."""
    seed: int | None = Field(None, ge=0)
    """Seed of the draw; null takes the recipe's seed."""
    stratify: Stratify = "none"
    """Stratified sampling: none draws any rows; proportional keeps the distribution of kinds (of sentences: of labels);
    equal draws the same number of each kind, which without `rows` is as many as the rarest kind has."""


VALIDATION_ROWS = 100
"""Default number of validation rows generated or split off the training rows."""
TEST_ROWS = 500
"""Default number of test rows generated or split off."""
SPLIT_ONE_IN = 5
"""Unless the settings name a number, at most one in so many rows of a file is split off for each evaluation set."""
FEWEST_TEST_ROWS = 25
"""Test rows split off at least, if that is no more than a third: with fewer, hardly any gain is beyond chance."""


def split_sizes(rows: int) -> tuple[int, int]:
    """Return how many validation and test rows the defaults split off a file of so many different rows.

    >>> split_sizes(60), split_sizes(60_000)
    ((8, 20), (100, 500))
    """
    test = default_test_rows(rows)
    return default_validation_rows(rows - test), test


def default_test_rows(rows: int) -> int:
    """Return how many of so many rows the defaults split off to test: a fifth, or a third where rows are few.

    >>> [default_test_rows(rows) for rows in (60, 100, 1_000, 60_000)]
    [20, 25, 200, 500]
    """
    return min(TEST_ROWS, max(rows // SPLIT_ONE_IN, min(FEWEST_TEST_ROWS, rows // 3), 1))


def default_validation_rows(rows: int) -> int:
    """Return how many of so many rows the defaults split off to validate: a fifth at most.

    >>> default_validation_rows(40), default_validation_rows(800)
    (8, 100)
    """
    return min(VALIDATION_ROWS, max(1, rows // SPLIT_ONE_IN))


def row_limit(rows: int | None, file: Path | None, default: int) -> int | None:
    """Return the largest number of rows of an evaluation set; None stands for all rows of its file.

    >>> row_limit(None, Path("test.jsonl"), 500), row_limit(None, None, 500), row_limit(20, Path("test.jsonl"), 500)
    (None, 500, 20)
    """
    return default if rows is None and file is None else rows


class DataSettings(Settings):
    """Training, validation and test rows."""

    train: Path | None = None
    """File of training rows (json, jsonl, csv, tsv, parquet) or a folder of such files; null lets the task generate."""
    generated_rows: int = Field(20_000, ge=1)
    """Training rows to generate if no file is named."""
    sample: SampleSettings = Field(default_factory=SampleSettings)
    validation: Path | None = None
    """File or folder of validation rows; null splits them off the training rows by seed."""
    validation_rows: int | None = Field(None, ge=1)
    """How many validation rows, drawn by seed; null: all of a validation file, or 100 split off the training rows, a
    fifth of them at most."""
    test: Path | None = None
    """File or folder of test rows; null lets the generator write fresh ones, or splits them off a training file."""
    test_rows: int | None = Field(None, ge=1)
    """How many test rows, drawn by seed; null: all rows of a test file, or 500 that are generated or split off, a
    fifth of the file at most (of less than 125 rows 25, a third of the file at most)."""
    on_error: Literal["stop", "skip"] = "stop"
    """Unreadable training and validation rows stop the run, or are skipped and counted."""
    max_row_bytes: int = Field(MAX_ROW_BYTES, ge=1)
    """Largest row or article in a file, in bytes; a larger one counts as unreadable and is never loaded."""
    on_too_long: Literal["drop", "stop"] = "drop"
    """Training rows above data.max_length are dropped and counted, or stop the run."""
    max_length: int | None = Field(None, ge=8)
    """Longest row in tokens, prompt and answer together; null takes the model's context."""
