"""Confidence intervals of proportions and means, and paired significance tests.

All intervals are two-sided. Proportions are 0 to 1; means have the unit of their scores. A bootstrap interval is None
(not estimable) if the resamples do not vary: a single row, equal scores, equal ratios.
"""

# SciPy has all of these, but importing it takes up to four seconds, and `lotune compare` and `lotune report` must
# answer within one second. The tests compare each function with SciPy's.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from lotune.errors import DataError

if TYPE_CHECKING:
    import numpy

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
"""A tuned model is better than its base if the one-sided p-value is below this."""
RESAMPLES = 10_000
ROUNDING = 1e-9
"""Relative difference below which resampled figures are equal."""


class Interval(NamedTuple):
    """Lower and upper limit."""

    low: float
    high: float


def standard_error(interval: Sequence[float] | None) -> float:
    """Return the standard error behind a symmetric 95 % interval (low, high); 0 if there is none.

    >>> round(standard_error((0.87, 1.03)), 3), standard_error(None)
    (0.041, 0.0)
    """
    return 0.0 if interval is None else (interval[1] - interval[0]) / (2 * 1.96)


@dataclass(frozen=True)
class PairedTest:
    """Result of a paired test.

    `gained` and `lost` count the rows that are better and worse after; `p_value` is two-sided, `p_better` one-sided:
    the probability of at least this gain without an effect.
    """

    gained: int
    lost: int
    p_value: float
    p_better: float

    @property
    def better(self) -> bool:
        """Whether after is significantly better than before."""
        return self.p_better < SIGNIFICANCE


def wilson(right: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson, 1927); (0, 1) if n is 0.

    >>> low, high = wilson(81, 263)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if not 0 <= right <= n:
        raise DataError("interval of a proportion", f"{right} of {n}", "0 <= right <= n")
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    # The normal approximation would leave 0 to 1, and have no width if all rows are right.
    fraction = right / n
    middle = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    # Exactly 0 or 1 at the ends, which rounding would miss in the last bit.
    return Interval(0.0 if right == 0 else middle - margin, 1.0 if right == n else middle + margin)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> PairedTest:
    """Return McNemar's exact test of paired verdicts: without an effect, gains and losses are equally likely.

    >>> mcnemar([False] * 8 + [True], [True] * 8 + [False])
    PairedTest(gained=8, lost=1, p_value=0.0390625, p_better=0.01953125)
    """
    _check_pairs(before, after)
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    # The chi-square approximation would need about 25 changed verdicts.
    two_sided = min(1.0, 2 * _binomial_tail(max(gained, lost), gained + lost))
    return PairedTest(gained, lost, two_sided, _binomial_tail(gained, gained + lost))


def paired_permutation_test(
    before: Sequence[float], after: Sequence[float], rounds: int = RESAMPLES, seed: int = 0
) -> PairedTest:
    """Return a paired permutation test of scores, with the signs of the differences drawn at random `rounds` times.

    p = (draws at least as extreme + 1) / (rounds + 1).

    >>> paired_permutation_test([0.0] * 12, [50.0] * 12).better
    True
    """
    _check_pairs(before, after)
    import numpy

    changes = numpy.subtract(after, before, dtype=float)
    # A sum in another order differs in its last bits; such a draw still counts as at least as extreme.
    total, tolerance = changes.sum(), 1e-9 * abs(changes).sum()
    changed = changes[changes != 0]
    generator = numpy.random.default_rng(seed)
    sums = numpy.concatenate(
        [generator.choice((-1.0, 1.0), (size, len(changed))) @ changed for size in _chunk_sizes(rounds, len(changed))]
    )
    above = int((sums >= total - tolerance).sum())
    beyond = int((abs(sums) >= abs(total) - tolerance).sum())
    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    # The observed signs count as one more draw, so that p is never 0 (Phipson and Smyth, 2010).
    return PairedTest(gained, lost, (beyond + 1) / (rounds + 1), (above + 1) / (rounds + 1))


def bootstrap_mean(scores: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
    """Return the percentile bootstrap interval (95 %) of a mean, or None if all scores are equal.

    >>> bootstrap_mean([2.0, 4.0, 2.0, 4.0] * 25)
    Interval(low=2.8, high=3.2)
    >>> bootstrap_mean([3.0, 3.0, 3.0])
    """
    if not scores:
        raise DataError("interval of a mean", "no scores", "at least one")
    import numpy

    values = numpy.asarray(scores, dtype=float)
    generator = numpy.random.default_rng(seed)
    means = [
        values[generator.integers(0, len(values), (size, len(values)))].mean(axis=1)
        for size in _chunk_sizes(resamples, len(values))
    ]
    return limits(numpy.concatenate(means))


def bootstrap_difference(
    before: Sequence[float], after: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the percentile bootstrap interval (95 %) of mean(after) - mean(before), resampling pairs of scores.

    It is None if all differences are equal.

    >>> bootstrap_difference([10.0, 20.0] * 50, [10.0, 24.0] * 50)
    Interval(low=1.6, high=2.4)
    >>> bootstrap_difference([10.0, 20.0], [15.0, 25.0])
    """
    _check_pairs(before, after)
    return bootstrap_mean([new - old for old, new in zip(before, after, strict=True)], resamples, seed)


def bootstrap_ratio(
    tops: Sequence[float], bottoms: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the percentile bootstrap interval (95 %) of sum(tops) / sum(bottoms), resampling pairs.

    Resamples whose bottoms are all 0 are left out. It is None if all ratios are equal.

    Raises: DataError if all bottoms are 0.

    >>> bootstrap_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    """
    _check_pairs(tops, bottoms)
    import numpy

    pairs = numpy.asarray([tops, bottoms], dtype=float)
    generator = numpy.random.default_rng(seed)
    sampled = [
        pairs[:, generator.integers(0, len(tops), (size, len(tops)))].sum(axis=2)
        for size in _chunk_sizes(resamples, 2 * len(tops))
    ]
    sums = numpy.concatenate(sampled, axis=1)  # (2, resamples)
    sums = sums[:, sums[1] > 0]
    if not sums.size:
        raise DataError("interval of a ratio", "it divides by 0", "a bottom above 0")
    return limits(sums[0] / sums[1])


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean of values that count by their weights.

    >>> weighted_mean([1.0, 5.0], [30.0, 10.0])
    2.0
    """
    if len(set(weights)) == 1:
        return sum(values) / len(values)
    return sum(weight * value for value, weight in zip(values, weights, strict=True)) / sum(weights)


def bootstrap_weighted_mean(
    values: Sequence[float], weights: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the percentile bootstrap interval (95 %) of a weighted mean, each value drawn with its weight.

    >>> bootstrap_weighted_mean([3.0, 3.0], [1.0, 9.0])
    """
    if len(set(weights)) == 1:
        return bootstrap_mean(values, resamples, seed)
    # The weights are drawn, too: their sum varies from sample to sample.
    tops = [weight * value for value, weight in zip(values, weights, strict=True)]
    return bootstrap_ratio(tops, weights, resamples, seed)


def limits(figures: numpy.ndarray) -> Interval | None:
    """Return the middle 95 % of drawn figures, shape (draws,), or None if they differ by rounding only.

    >>> import numpy
    >>> limits(numpy.asarray([0.1 + 0.2, 0.3]))
    """
    import numpy

    low, high = map(float, numpy.quantile(figures, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))
    return Interval(low, high) if high - low > ROUNDING * max(abs(low), abs(high)) else None


def _chunk_sizes(rounds: int, numbers: int) -> list[int]:
    """Return the sizes of chunks of `rounds` draws of `numbers` numbers, at most four million numbers per chunk.

    >>> _chunk_sizes(10, 1_000_000)
    [4, 4, 2]
    """
    size = max(1, 4_000_000 // max(1, numbers))
    return [min(size, rounds - start) for start in range(0, rounds, size)]


def _binomial_tail(heads: int, tosses: int) -> float:
    """Return the probability of at least that many heads of a fair coin, exact before the last division.

    >>> _binomial_tail(8, 9)
    0.01953125
    """
    # Integers, as 2 to the power of 2,067 rows exceeds a float.
    return sum(comb(tosses, number) for number in range(heads, tosses + 1)) / (1 << tosses)


def _check_pairs(before: Sequence[object], after: Sequence[object]) -> None:
    """Raise DataError if the two differ in length or are empty."""
    if len(before) != len(after) or not before:
        raise DataError("paired test", f"{len(before)} and {len(after)} rows", "the same rows, at least one")
