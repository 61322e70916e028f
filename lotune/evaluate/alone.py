"""Answers in a reduced number format, asked again alone: how many of them depend on what they are asked with?

A product in bfloat16 or float16 rounds differently with the height of the batch, so an answer can part from the one
that the same question gets alone. Some rows of each evaluation set are therefore asked again, one at a time, and the
intervals of the set's figures become wider by the share of verdicts that differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from lotune.data.examples import Example
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import RetentionMetric
from lotune.evaluate.scorecard import Alone, CategoryResult, Target
from lotune.evaluate.statistics import Interval

ALONE_ROWS = 100
"""Rows of an evaluation set that are asked again alone, at most."""
ALONE_SEED = 7_000
"""Added to the seed for the choice of these rows."""


def rows_alone(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return the examples that are asked again alone, drawn by seed, in their order."""
    places = range(len(examples))
    drawn = Random(seed + ALONE_SEED).sample(places, min(ALONE_ROWS, len(places)))
    return [examples[place] for place in sorted(drawn)]


def compare_alone(together: Sequence[Prediction], alone: Sequence[Prediction], dtype: str) -> Alone:
    """Compare answers that were given alone with those to the same rows among others."""
    before: Mapping[str, Prediction] = {one.example_id: one for one in together}
    pairs = [(before[one.example_id], one) for one in alone]
    return Alone(
        dtype=dtype,
        rows=len(pairs),
        texts=sum(one.text != other.text for one, other in pairs),
        verdicts=sum(_verdict(one) != _verdict(other) for one, other in pairs),
    )


def wider(interval: Interval | None, by: float, least: float = 0.0, most: float = 1.0) -> Interval | None:
    """Return an interval with `by` added at both ends, within `least` and `most`; None is still not estimable.

    >>> wider(Interval(0.5, 0.995), 0.01), wider(Interval(40.0, 50.0), 1.0, most=100.0)
    (Interval(low=0.49, high=1.0), Interval(low=39.0, high=51.0))
    """
    if interval is None or by == 0:
        return interval
    return Interval(max(least, interval.low - by), min(most, interval.high + by))


def wider_target(target: Target, base: float, tuned: float) -> Target:
    """Return the target with its intervals wider by the shares of verdicts of base and tuned model that differ."""
    scale = 100.0 if target.in_points else 1.0
    difference = wider(target.difference_interval, scale * (base + tuned), -scale, scale)
    kinds = {name: _wider_kind(kind, base, tuned, scale) for name, kind in target.by_category.items()}
    both: dict[str, Any] = _both(target, base, tuned, scale)
    return target.model_copy(update={**both, "difference_interval": difference, "by_category": kinds})


def wider_line(line: RetentionMetric, base: float, tuned: float) -> RetentionMetric:
    """Return the line with its intervals wider by the shares of verdicts that differ, `retained` accordingly."""
    by = 0.0 if line.retained is None else 100.0 * (tuned + line.retained * base) / line.base
    return replace(
        line,
        base_interval=wider(line.base_interval, 100.0 * base, most=100.0),
        tuned_interval=wider(line.tuned_interval, 100.0 * tuned, most=100.0),
        retained_interval=wider(line.retained_interval, by, most=float("inf")),
    )


def _verdict(one: Prediction) -> tuple[bool | None, dict[str, float]]:
    return one.score.correct, dict(one.score.scores)


def _wider_kind(kind: CategoryResult, base: float, tuned: float, scale: float) -> CategoryResult:
    return kind.model_copy(update=_both(kind, base, tuned, scale))


def _both(of: Target | CategoryResult, base: float, tuned: float, scale: float) -> dict[str, Interval | None]:
    return {
        "interval": wider(of.interval, scale * tuned, most=scale),
        "base_interval": wider(of.base_interval, scale * base, most=scale),
    }
