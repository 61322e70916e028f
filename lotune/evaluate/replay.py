"""Settings and counts of replay: general rows among the training rows keep what the base can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lotune.settings import AUTO, AutoCount, Settings, is_auto

ReplaySource = Literal["generator", "base", "file"]
"""Where replay rows come from: the generator of the retention task, the base itself, or a file."""
LEAST_ROWS = 100
"""Fewest replay rows that the base writes: the model learns a handful of rows by heart."""
MOST_ROWS = {"generator": 1000, "file": 1000, "base": 600}
"""Replay rows that `auto` takes at most, by source: rows of the base take time to write."""
TOKEN_SHARE, TOKEN_SHARE_OF_DIVERGENCE = 0.7, 0.17
"""Tokens of the replay rows of an epoch, as a fraction of the tokens of the task's rows.

With the divergence, each token of a replay row counts, not its answer alone, and costs a second forward pass.
"""
WEIGHT_ON_BASE_ROWS = 0.5
"""Weight of the divergence on rows that the base writes.

Most of the tokens in the loss of a step are theirs: with twice the weight, the task is learned later and less surely.
"""


class ReplaySettings(Settings):
    """Settings of the rows that are mixed into the training rows against forgetting."""

    rows: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Number of replay rows; 0: none; auto: 1,000, or if the base writes them, as many as training rows, 100 to 600."""
    rows_per_epoch: AutoCount = AUTO
    """Number of replay rows in an epoch, others in each epoch; auto: all if retention.replay.rows is given, else so
    many that they have 70 % of the tokens of the task's rows, or 17 % with retention.divergence."""
    source: Literal["auto", "generator", "base", "file"] = "auto"
    """Where replay rows come from. generator: the generator of the retention task; base: the base writes them itself
    before the tuning, which needs no data; file: retention.replay.data; auto: the file if one is named, the generator
    for nano, else the base."""
    data: Path | None = None
    """File of general rows to replay: rows of any task, or plain texts (jsonl with `text`, or txt)."""

    @model_validator(mode="after")
    def _file_is_named(self) -> ReplaySettings:
        if (self.source == "file") != (self.data is not None) and self.source != "auto":
            missing = (
                "names no file: set retention.replay.data" if self.data is None else "takes no retention.replay.data"
            )
            raise ValueError(f"source {self.source} {missing}")
        return self


class ReplayCounts(BaseModel):
    """Counts of the replay rows of a run: their number and source, and the seconds that it took to make them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    rows: int = 0
    source: ReplaySource | None = None
    seconds: float = 0.0
    overlapping: int = 0
    """Number of rows that were removed because they hold something of an evaluation set."""
    rehearsed: str = ""
    """Names of the abilities whose own task the rows are of."""
    not_rehearsed: str = ""
    """Names of the measured abilities of whose task no row is replayed."""

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> ReplayCounts:
        """Return the replay rows in the content of counts.json, where earlier versions stored their number alone."""
        record = counts.get("replay", {})
        return cls(**record) if isinstance(record, dict) else cls(rows=int(record))

    def describe(self) -> str:
        """Return the counts as a clause.

        >>> ReplayCounts(rows=250, source="base", seconds=12.34).describe()
        'replay: 250 rows that the base wrote itself before tuning, in 12.3 s'
        """
        if self.source is None:
            return "replay: none"
        origin = {
            "base": "that the base wrote itself before tuning",
            "file": "of a file",
            "generator": f"of the generator of {self.rehearsed}",
        }[self.source]
        removed = f"; {self.overlapping} removed as an evaluation set holds them" if self.overlapping else ""
        return f"replay: {self.rows:,} rows {origin}, in {self.seconds:.1f} s{removed}"

    def notes(self) -> list[str]:
        """Return remarks for the scorecard: the counts, and which abilities were rehearsed.

        >>> ReplayCounts(rows=9, source="file", rehearsed="reading").notes()[1][:63]
        'the replay rows are of reading, the task that retention is meas'
        >>> ReplayCounts(rows=9, source="generator", rehearsed="reading", not_rehearsed="copying").notes()[1]
        'the replay rows are of reading; copying was not replayed, and shows what else was kept'
        """
        if self.source is None:
            return []
        return [self.describe(), *([self._rehearsal()] if self.rehearsed and self.rows else [])]

    def _rehearsal(self) -> str:
        if self.not_rehearsed:
            were, show = ("were", "show") if " and " in self.not_rehearsed else ("was", "shows")
            others = f"{self.not_rehearsed} {were} not replayed, and {show} what else was kept"
            return f"the replay rows are of {self.rehearsed}; {others}"
        return (
            f"the replay rows are of {self.rehearsed}, the task that retention is measured by: that it was kept says "
            "little about other abilities (retention.abilities measures some)"
        )


def replay_source(settings: ReplaySettings, *, is_nano: bool) -> ReplaySource:
    """Return where replay rows come from, with `auto` resolved. `is_nano`: the base is nano, and a generator exists.

    >>> replay_source(ReplaySettings(), is_nano=True), replay_source(ReplaySettings(), is_nano=False)
    ('generator', 'base')
    """
    if settings.source != "auto":
        return settings.source
    if settings.data is not None:
        return "file"
    return "generator" if is_nano else "base"


def replay_row_count(settings: ReplaySettings, source: ReplaySource, training_rows: int) -> int:
    """Return the number of replay rows, with `auto` resolved from the number of training rows.

    >>> [replay_row_count(ReplaySettings(), "base", rows) for rows in (20, 200, 5000)]
    [100, 200, 600]
    """
    if settings.rows != "auto":
        return settings.rows
    most = MOST_ROWS[source]
    return max(LEAST_ROWS, min(training_rows, most)) if source == "base" else most


def replay_rows_per_epoch(
    settings: ReplaySettings, rows: int, task_tokens: int, replay_tokens: int, *, divergence: bool = False
) -> int:
    """Return how many of `rows` replay rows an epoch has, with `auto` resolved from the tokens of task and replay rows.

    >>> [replay_rows_per_epoch(ReplaySettings(), 1_000, tokens, 200_000) for tokens in (600, 60_000, 6_000_000)]
    [2, 210, 1000]
    >>> replay_rows_per_epoch(ReplaySettings(), 600, 60_000, 60_000, divergence=True)
    102
    >>> replay_rows_per_epoch(ReplaySettings(rows=50), 50, 60_000, 10_000)
    50
    """
    if not is_auto(settings.rows_per_epoch):
        return min(rows, settings.rows_per_epoch)
    if settings.rows != "auto" or not replay_tokens:
        return rows
    share = TOKEN_SHARE_OF_DIVERGENCE if divergence else TOKEN_SHARE
    return min(rows, max(1, round(share * task_tokens * rows / replay_tokens)))


def divergence_weight(divergence: float | Literal["auto"], source: ReplaySource, replay_rows: int | str) -> float:
    """Return the weight of the divergence from the base, with `auto` resolved; 0 without replay rows.

    >>> divergence_weight("auto", "base", "auto"), divergence_weight("auto", "generator", 50)
    (0.5, 0.0)
    """
    if replay_rows == 0:
        return 0.0
    # Rows that the base wrote are samples of its distribution, on which the divergence is estimated without bias.
    return (WEIGHT_ON_BASE_ROWS if source == "base" else 0.0) if divergence == "auto" else divergence
