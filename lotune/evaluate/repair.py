"""The repair of what a tuning forgot: when it is due, how many rows it replays, and its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from lotune.evaluate.replay import ReplaySource
from lotune.evaluate.statistics import standard_error

FEWEST_REPLAY_ROWS = {"generator": 1000, "file": 1000, "base": 300}
"""Minimum number of replay rows of a repair, by source."""
DIVERGENCE = 1.0
"""Weight of the divergence from the base in a repair: it brings back more than cross-entropy does."""
RATE_FRACTION = 0.5
"""Learning rate of a repair as a fraction of the tuning's: lower ones bring back less in as many steps."""


class Repair(BaseModel):
    """The record of a repair: a tuning that went on from a checkpoint that failed the gate on the validation rows.

    Fractions are of the base's score on those rows: the smallest of the gated metrics.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    start: str
    """Name of the checkpoint from which the tuning went on; the checkpoint itself is kept as it was."""
    retained_before: float
    chosen: str
    """Name of the best checkpoint of the repair."""
    retained: float | None
    passed: bool
    """Whether that checkpoint passes the gate on the validation rows."""
    steps: int
    replay_rows: int
    source: ReplaySource | None
    seconds: float
    """Time of the repair's tuning and of making its replay rows."""

    def describe(self) -> str:
        """Return the repair as a sentence.

        >>> facts = {"steps": 80, "replay_rows": 1000, "source": "generator", "seconds": 41.2}
        >>> Repair(start="step-9", retained_before=0.4, chosen="repair-8", retained=0.95, passed=True, **facts).describe()
        'repair: step-9 retained 40.0 % on the validation rows; after 80 more steps with 1,000 replay rows and divergence from the base, repair-8 retains 95.0 % (41.2 s)'
        """  # noqa: E501
        retained = "" if self.retained is None else f" retains {100 * self.retained:.1f} %"
        return (
            f"repair: {self.start} retained {100 * self.retained_before:.1f} % on the validation rows; after "
            f"{self.steps} more steps with {self.replay_rows:,} replay rows and divergence from the base, "
            f"{self.chosen}{retained} ({self.seconds:.1f} s)"
        )


def none_passes(checkpoints: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the gate can be measured and no checkpoint passed it.

    >>> [none_passes([{"gate_passed": False, "retained": retained}]) for retained in (0.4, None)]
    [True, False]
    """
    measured = [checkpoint for checkpoint in checkpoints if checkpoint.get("retained") is not None]
    return bool(measured) and not any(checkpoint["gate_passed"] for checkpoint in measured)


def repair_rows(replayed: int, source: ReplaySource) -> int:
    """Return the number of replay rows of a repair: twice those of the tuning, but not too few.

    >>> repair_rows(0, "base"), repair_rows(900, "generator")
    (300, 1800)
    """
    return max(2 * replayed, FEWEST_REPLAY_ROWS[source])


def retains_beyond_doubt(retained: float | None, interval: Sequence[float] | None, threshold: float) -> bool:
    """Return whether a fraction is 1 or one standard error above the threshold, so that other rows will hardly fail.

    >>> retains_beyond_doubt(0.95, (0.87, 1.03), 0.9), retains_beyond_doubt(0.92, (0.84, 1.0), 0.9)
    (True, False)
    """
    if retained is None:
        return False
    return retained - standard_error(interval) >= threshold or retained >= 1
