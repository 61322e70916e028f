"""Intervals and paired tests against published examples, scipy, and their own laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.evaluate.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    mcnemar,
    paired_permutation_test,
    wilson,
)

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.oracle
@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (215, 500), (499, 500)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(right: int, n: int, confidence: float) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert tuple(wilson(right, n, confidence)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(COUNTS)
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    right, n = counts
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert tuple(wilson(n - right, n)) == pytest.approx((1 - high, 1 - low))


def test_wilson_of_no_rows_and_of_invalid_counts() -> None:
    assert tuple(wilson(0, 0)) == (0, 1)
    with pytest.raises(DataError):
        wilson(3, 2)


@pytest.mark.oracle
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 20))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int, same: int) -> None:
    from scipy.stats import binomtest

    before = [False] * gained + [True] * lost + [True] * same
    after = [True] * gained + [False] * lost + [True] * same
    actual = mcnemar(before, after)
    assert (actual.gained, actual.lost) == (gained, lost)
    if gained + lost:
        assert actual.p_value == pytest.approx(binomtest(gained, gained + lost).pvalue)
        assert actual.p_better == pytest.approx(binomtest(gained, gained + lost, alternative="greater").pvalue)
    else:
        assert actual.p_value == actual.p_better == 1.0
        assert not actual.better


def test_mcnemar_of_many_rows() -> None:
    actual = mcnemar([False] * 3000 + [True] * 2000, [True] * 3000 + [False] * 2000)
    assert actual.better
    assert 0 <= actual.p_better < 1e-20


@pytest.mark.oracle
def test_sign_flips_is_scipys_permutation_test() -> None:
    from scipy.stats import permutation_test

    generator = np.random.default_rng(3)
    before, after = generator.normal(0, 1, 12), generator.normal(0.6, 1, 12)
    exact = permutation_test(
        (after, before), lambda x, y: np.mean(x - y), permutation_type="samples", alternative="greater", n_resamples=1e5
    )
    assert paired_permutation_test(list(before), list(after)).p_better == pytest.approx(exact.pvalue, abs=0.015)


def test_no_change_is_no_gain() -> None:
    test = paired_permutation_test([1.0, 2.0], [1.0, 2.0])
    assert (test.gained, test.lost, test.p_value, test.p_better) == (0, 0, 1.0, 1.0)


@pytest.mark.oracle
def test_bootstrap_is_scipys() -> None:
    from scipy.stats import bootstrap

    generator = np.random.default_rng(1)
    before, after = generator.uniform(0, 100, 150), generator.uniform(5, 100, 150)
    expected = bootstrap((after - before,), np.mean, method="percentile", rng=np.random.default_rng(2))
    limits = expected.confidence_interval
    assert tuple(bootstrap_difference(list(before), list(after))) == pytest.approx((limits.low, limits.high), abs=0.5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_bootstrap_stays_among_the_scores_and_repeats(scores: list[float]) -> None:
    interval = bootstrap_mean(scores, resamples=50)
    if interval is not None:
        assert min(scores) - 1e-9 <= interval.low < interval.high <= max(scores) + 1e-9
    assert bootstrap_mean(scores, resamples=50) == interval


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.floats(0.1, 10))
def test_an_interval_is_estimable_if_rows_differ(values: list[int], factor: float) -> None:
    scores = [factor * value for value in values]
    differ = len(set(values)) > 1
    assert (bootstrap_mean(scores) is not None) == differ
    assert (bootstrap_difference([1.0] * len(scores), scores) is not None) == differ
    assert bootstrap_ratio([3 * (1 + score) for score in scores], [1 + score for score in scores]) is None
    assert (bootstrap_ratio([1 + score for score in scores], [1.0] * len(scores)) is not None) == differ


def test_other_rows_are_refused() -> None:
    for test in (mcnemar, paired_permutation_test, bootstrap_difference):
        with pytest.raises(DataError):
            test([True], [True, False])
        with pytest.raises(DataError):
            test([], [])
    with pytest.raises(DataError):
        bootstrap_mean([])


def test_a_ratio_leaves_out_draws_with_a_zero_denominator() -> None:
    interval = bootstrap_ratio([0.0, 50.0, 100.0], [0.0, 100.0, 100.0])
    assert interval == (0.5, 1.0)
    with pytest.raises(DataError, match="it divides by 0"):
        bootstrap_ratio([1.0], [0.0])
