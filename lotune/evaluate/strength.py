"""The strength of an adapter: its change of the base times a number in (0, 1]; the record of a search for it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

SCALES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Strengths that a search tries."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class StrengthPoint(_Record):
    """A strength on the validation rows: the metric, and the smallest retained fraction of the gated metrics."""

    strengths: tuple[float, ...]
    """The strength of each group of layers, the first layers first."""
    value: float
    retained: float | None
    passed: bool | None
    """Whether the gate passes; null if no retention rows are watched."""

    @property
    def label(self) -> str:
        """The strengths as text.

        >>> StrengthPoint(strengths=(0.8, 1.0), value=0.5, retained=0.9, passed=True).label
        '0.8/1'
        """
        return strength_label(self.strengths)


class StrengthSearch(_Record):
    """The strengths that were tried on a checkpoint, in the order of the trials, and the chosen one."""

    checkpoint: str
    """Name of the checkpoint at full strength."""
    chosen: tuple[float, ...]
    points: tuple[StrengthPoint, ...]
    seconds: float

    def describe(self) -> str:
        """Return the search as a sentence.

        >>> tried = [StrengthPoint(strengths=(s,), value=s, retained=1 - s / 2, passed=s < 0.3) for s in (1.0, 0.2)]
        >>> StrengthSearch(checkpoint="step-9", chosen=(0.2,), points=tried, seconds=3.04).describe()
        'strength: step-9 at 0.2 of its strength retains 90.0 % on the validation rows, 50.0 % at full strength (3.0 s)'
        """
        chosen = next(point for point in self.points if point.strengths == self.chosen)
        full = next(point for point in self.points if set(point.strengths) == {1.0})
        tried = f"({self.seconds:.1f} s)"
        if chosen == full:
            return f"strength: {self.checkpoint} stays at full strength, which {_retains(full)} {tried}"
        return (
            f"strength: {self.checkpoint} at {chosen.label} of its strength {_retains(chosen)} on the validation rows, "
            f"{_retains(full).removeprefix('retains ')} at full strength {tried}"
        )


def _retains(point: StrengthPoint) -> str:
    return "retains an unknown part" if point.retained is None else f"retains {100 * point.retained:.1f} %"


def strength_label(strengths: Sequence[float]) -> str:
    """Return the strengths of the groups of layers as text.

    >>> strength_label((0.8,)), strength_label((0.85, 1.0))
    ('0.8', '0.85/1')
    """
    return "/".join(f"{strength:g}" for strength in strengths)


def strengthened_name(checkpoint: str, strengths: Sequence[float]) -> str:
    """Return the name of a checkpoint at other strengths.

    >>> strengthened_name("step-000300", (0.8,)), strengthened_name("step-9", (0.8, 1.0))
    ('step-000300-strength-0.80', 'step-9-strength-0.80-1.00')
    """
    return f"{checkpoint}-strength-{'-'.join(f'{strength:.2f}' for strength in strengths)}"
