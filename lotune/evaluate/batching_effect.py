"""Effect of batching on answers in a reduced dtype.

A matrix product in bfloat16 or float16 rounds differently with the height of the batch, so an answer can differ from
the one that the same row gets alone. Some rows of each evaluation set are therefore generated again, one at a time, and
the intervals of the set's figures are widened by the fraction of verdicts that differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from lotune.data.examples import Example
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import RetentionMetric
from lotune.evaluate.scorecard import BatchingEffect, CategoryResult, Target
from lotune.evaluate.statistics import Interval
from lotune.tasks.metrics import WEIGHTS

# One changed verdict of 100 widens an interval by a point; generation one row at a time is slow.
MAX_UNBATCHED_ROWS = 100
"""Maximum number of rows of an evaluation set to generate again alone."""
# The offset keeps this sample independent of other draws with the seed of the run.
UNBATCHED_SEED = 7_000
"""Offset of the seed that selects these rows."""


def sample_unbatched_rows(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return a random sample of the examples, at most MAX_UNBATCHED_ROWS, in their original order."""
    indices = range(len(examples))
    sampled = Random(seed + UNBATCHED_SEED).sample(indices, min(MAX_UNBATCHED_ROWS, len(indices)))
    return [examples[index] for index in sorted(sampled)]


def measure_batching_effect(
    batched: Sequence[Prediction], unbatched: Sequence[Prediction], dtype: str
) -> BatchingEffect:
    """Return how many of the unbatched predictions differ from the batched ones of the same rows."""
    batched_by_id: Mapping[str, Prediction] = {prediction.example_id: prediction for prediction in batched}
    pairs = [(batched_by_id[prediction.example_id], prediction) for prediction in unbatched]
    return BatchingEffect(
        dtype=dtype,
        rows=len(pairs),
        texts=sum(first.text != second.text for first, second in pairs),
        verdicts=sum(_verdict(first) != _verdict(second) for first, second in pairs),
    )


def widen(interval: Interval | None, margin: float, lower: float = 0.0, upper: float = 1.0) -> Interval | None:
    """Return an interval widened by a margin at both ends and clipped to the bounds; None stays None.

    >>> widen(Interval(0.5, 0.995), 0.01), widen(Interval(40.0, 50.0), 1.0, upper=100.0)
    (Interval(low=0.49, high=1.0), Interval(low=39.0, high=51.0))
    """
    if interval is None or margin == 0:
        return interval
    return Interval(max(lower, interval.low - margin), min(upper, interval.high + margin))


def widen_target(target: Target, base: float, tuned: float) -> Target:
    """Return the target with its intervals widened by the fractions of changed verdicts of base and tuned model."""
    # Rounding moves a likelihood a little either way, which a mean over rows levels out; no verdict changes with it.
    if target.is_mean and not target.in_points:
        return target
    # Means of scores are points of 100, accuracies fractions; a changed verdict can move either by its whole range.
    scale = 100.0 if target.in_points else 1.0
    # Both models can err, in opposite directions: their margins add up in the difference.
    difference = widen(target.difference_interval, scale * (base + tuned), -scale, scale)
    categories = {name: _widen_category(result, base, tuned, scale) for name, result in target.by_category.items()}
    intervals: dict[str, Any] = _widened_intervals(target, base, tuned, scale)
    return target.model_copy(update={**intervals, "difference_interval": difference, "by_category": categories})


def widen_metric(line: RetentionMetric, base: float, tuned: float) -> RetentionMetric:
    """Return the metric with its intervals widened by the fractions of changed verdicts of base and tuned model."""
    # retained = tuned / base, so to first order its error is (d_tuned + retained * d_base) / base.
    margin = 0.0 if line.retained is None else 100.0 * (tuned + line.retained * base) / line.base
    return replace(
        line,
        base_interval=widen(line.base_interval, 100.0 * base, upper=100.0),
        tuned_interval=widen(line.tuned_interval, 100.0 * tuned, upper=100.0),
        retained_interval=widen(line.retained_interval, margin, upper=float("inf")),
    )


def _verdict(prediction: Prediction) -> tuple[bool | None, dict[str, float]]:
    # A likelihood differs in its last digits with every batch, which is no other verdict.
    scores = {name: score for name, score in prediction.score.scores.items() if name not in WEIGHTS}
    return prediction.score.correct, scores


def _widen_category(result: CategoryResult, base: float, tuned: float, scale: float) -> CategoryResult:
    return result.model_copy(update=_widened_intervals(result, base, tuned, scale))


def _widened_intervals(
    result: Target | CategoryResult, base: float, tuned: float, scale: float
) -> dict[str, Interval | None]:
    return {
        "interval": widen(result.interval, scale * tuned, upper=scale),
        "base_interval": widen(result.base_interval, scale * base, upper=scale),
    }
