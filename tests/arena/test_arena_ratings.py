"""Ratings: true strengths come back, intervals hold, and independent implementations agree."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from arena_votes import scores, simulated, strengths_of
from scipy.optimize import minimize

from lotune.arena.influence import few_votes
from lotune.arena.pairing import Pairing, next_pair, variance_reduction
from lotune.arena.ratings import SCALE, Z95, Votes, bootstrap, connected, fit, restrict
from lotune.errors import DataError

Random = np.random.Generator


@pytest.fixture
def generator() -> Random:
    return np.random.default_rng(5)


@pytest.mark.oracle
@pytest.mark.parametrize("effects", [None, np.array([0.4, -0.2])])
def test_estimates_are_those_of_a_general_optimizer(generator: Random, effects: np.ndarray | None) -> None:
    votes = simulated(strengths_of(6, generator), 800, generator, effects)

    def loss(values: np.ndarray) -> float:
        strengths, rest = values[:6], values[6:]
        logits = strengths[votes.first] - strengths[votes.second] + votes.style @ rest
        return float(-(votes.score * logits - np.logaddexp(0, logits)).sum() + 1e-6 * strengths.sum() ** 2)

    found = minimize(loss, np.zeros(6 + votes.features), method="BFGS", options={"gtol": 1e-7}).x
    estimate = fit(votes)
    assert estimate.strengths == pytest.approx(found[:6] - found[:6].mean(), abs=1e-4)
    assert estimate.effects == pytest.approx(found[6:], abs=1e-4)


@pytest.mark.oracle
def test_ratings_are_those_of_evalica(generator: Random) -> None:
    import evalica

    votes = simulated(strengths_of(8, generator), 4000, generator)
    winners = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}
    result = evalica.bradley_terry(
        votes.first.tolist(),
        votes.second.tolist(),
        [winners[score] for score in votes.score],
        tolerance=1e-12,
        limit=10_000,
    )
    theirs = np.log(result.scores.sort_index().to_numpy())
    assert SCALE * (theirs - theirs.mean()) == pytest.approx(SCALE * fit(votes).strengths, abs=0.5)


def test_counted_votes_are_the_same_as_single_ones(generator: Random) -> None:
    votes = simulated(strengths_of(5, generator), 600, generator)
    cells = votes.cells()
    assert len(cells.first) < 31
    assert cells.counts.sum() == 600
    assert (cells.games() == votes.games()).all()
    styled = Votes(5, votes.first, votes.second, votes.score, np.zeros((600, 1)))  # a feature without effect
    one, other = fit(votes), fit(styled)
    assert one.strengths == pytest.approx(other.strengths, abs=1e-6)
    assert one.errors() == pytest.approx(other.errors(), abs=1e-4)


def test_intervals_by_sandwich_and_bootstrap_are_alike(generator: Random) -> None:
    estimate = fit(simulated(strengths_of(5, generator), 2000, generator))
    drawn = bootstrap(estimate, 300)
    assert SCALE * drawn[:, :5].std(0) == pytest.approx(estimate.errors(), rel=0.2)


def coverage(tournaments: int, models: int, count: int, generator: Random, effects: np.ndarray | None = None) -> float:
    """The share of true ratings within the 95 % intervals."""
    inside = 0
    for _ in range(tournaments):
        truth = strengths_of(models, generator)
        estimate = fit(simulated(truth, count, generator, effects))
        inside += int((np.abs(estimate.strengths - truth) * SCALE <= Z95 * estimate.errors()).sum())
    return inside / (tournaments * models)


@pytest.mark.parametrize("effects", [None, np.array([0.5, -0.3])])
def test_intervals_hold_the_truth(generator: Random, effects: np.ndarray | None) -> None:
    assert 0.93 <= coverage(60, 10, 1500, generator, effects) <= 0.97


@pytest.mark.soak
@pytest.mark.parametrize("effects", [None, np.array([0.5, -0.3])])
def test_intervals_hold_the_truth_in_a_thousand_tournaments(effects: np.ndarray | None) -> None:
    assert 0.93 <= coverage(1000, 10, 1500, np.random.default_rng(1), effects) <= 0.97


def _same(pairing: Pairing | None) -> Pairing | None:
    return pairing


def tournament(
    models: int, generator: Random, width: float, adaptive: bool, effects: tuple[float, ...] = ()
) -> tuple[int, bool]:
    """Votes until the widest interval is below `width` points, and whether the intervals then hold the first truth."""
    truth, weights = strengths_of(models, generator), np.array(effects)
    first, second, found, styles = list[int](), list[int](), list[float](), list[np.ndarray]()
    estimate, pairing = None, None
    while len(found) < 40_000:
        for _ in range(50):
            if adaptive:
                games = np.bincount([*first, *second], minlength=models)
                one, other = next_pair(games, 10, partial(_same, pairing), generator)
            else:
                one, other = generator.choice(models, 2, replace=False)
            first.append(int(one))
            second.append(int(other))
            styles.append(generator.normal(size=len(effects)))
            found.append(float(scores(truth[[one]] - truth[[other]] + styles[-1] @ weights, generator)[0]))
        votes = Votes(models, np.array(first), np.array(second), np.array(found), np.array(styles))
        if len(connected(votes)) < models:
            continue
        estimate = fit(votes)
        pairing = Pairing(estimate)
        if 2 * Z95 * estimate.errors().max() < width:
            break
    assert estimate is not None
    return len(found), bool(np.abs(estimate.strengths - truth)[0] * SCALE <= Z95 * estimate.errors()[0])


def test_adaptive_pairs_need_fewer_votes() -> None:
    adaptive = [tournament(20, np.random.default_rng(seed), 200, True)[0] for seed in range(3)]
    uniform = [tournament(20, np.random.default_rng(seed), 200, False)[0] for seed in range(3)]
    assert sum(adaptive) <= 0.7 * sum(uniform)


@pytest.mark.soak
@pytest.mark.parametrize("effects", [(), (0.5, -0.3)])
def test_intervals_hold_the_truth_with_adaptive_pairs(effects: tuple[float, ...]) -> None:
    held = [tournament(8, np.random.default_rng(seed), 120, True, effects)[1] for seed in range(1000)]
    assert 0.93 <= sum(held) / len(held) <= 0.97


@pytest.mark.soak
def test_adaptive_pairs_need_thirty_percent_fewer_votes() -> None:
    """Over thirty tournaments of 20 models, to a widest interval of 80 points."""
    votes = [
        sum(tournament(20, np.random.default_rng(seed), 80, way)[0] for seed in range(30)) for way in (True, False)
    ]
    assert votes[0] <= 0.7 * votes[1]


def test_a_vote_shrinks_the_variance_as_foretold(generator: Random) -> None:
    votes = simulated(strengths_of(4, generator), 400, generator)
    estimate = fit(votes)
    before = estimate.inverse[2, 2]
    expected = 1 / (1 + np.exp(estimate.strengths[None] - estimate.strengths[:, None]))
    weights = expected * (1 - expected)
    gain = variance_reduction(estimate.inverse, weights, 2)
    # Another vote of a pair at the expected score leaves the strengths, and adds its information.
    for pair in ((0, 1), (2, 3)):
        first, second = np.append(votes.first, pair[0]), np.append(votes.second, pair[1])
        more = Votes(4, first, second, np.append(votes.score, expected[pair]))
        logits = estimate.strengths[more.first] - estimate.strengths[more.second]
        weight = np.exp(logits) / (1 + np.exp(logits)) ** 2
        information = np.zeros((4, 4))
        for one, other, w in zip(more.first, more.second, weight, strict=True):
            difference = np.zeros(4)
            difference[one], difference[other] = 1, -1
            information += w * np.outer(difference, difference)
        after = np.linalg.pinv(information, rcond=1e-10)[2, 2]
        assert before - after == pytest.approx(gain[pair], rel=1e-3)
    widest = int(np.argmax(np.diag(estimate.covariance)))
    best = variance_reduction(estimate.inverse, weights, widest)
    pairing = Pairing(estimate)
    pairs = [pairing.next() for _ in range(100)]
    assert best[pairs[0]] == best.max()
    assert len({tuple(sorted(pair)) for pair in pairs}) > 2  # as if each had been voted on


def test_models_of_few_games_meet_first(generator: Random) -> None:
    games = np.array([3, 50, 1, 40])
    for _ in range(20):
        pair = next_pair(games, 10, lambda: pytest.fail("no fit is needed"), generator)
        assert set(pair) == {0, 2}
    sides = [next_pair(games, 10, lambda: None, generator)[0] for _ in range(200)]
    assert 60 < sides.count(2) < 140  # sides are drawn


def test_few_votes_are_as_few_as_trying_all_says(generator: Random) -> None:
    estimate = fit(simulated(np.array([0.5, 0.4, -0.9]), 300, generator))
    found = few_votes(estimate)
    assert found is not None
    assert found.confirmed
    cells, leader = estimate.votes, int(np.argmax(estimate.strengths))

    def first_without(cell: int, number: int) -> int:
        counts = cells.counts.copy()
        counts[cell] -= number
        return int(np.argmax(fit(cells.with_counts(counts).take(counts > 0)).strengths))

    # No smaller number of votes of one kind changes the first place.
    for cell in range(len(cells.first)):
        if found.votes - 1 <= cells.counts[cell]:
            assert first_without(cell, found.votes - 1) == leader


def test_who_only_won_is_not_rated_with_the_others(generator: Random) -> None:
    votes = simulated(strengths_of(4, generator), 400, generator)
    always = (votes.first == 1) | (votes.second == 1)
    score = np.where(always, (votes.first == 1).astype(float), votes.score)
    won = Votes(4, votes.first, votes.second, score)
    assert connected(won).tolist() == [0, 2, 3]
    with pytest.raises(DataError, match="only won or only lost"):
        fit(won)
    assert len(fit(restrict(won, [0, 2, 3])).strengths) == 3


def test_ranks_follow_the_differences(generator: Random) -> None:
    estimate = fit(simulated(np.array([2.0, 0.01, 0.0, -2.0]), 4000, generator))
    assert estimate.rank_ranges().tolist() == [[1, 1], [2, 3], [2, 3], [4, 4]]
