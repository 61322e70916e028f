"""Ratings from votes: Bradley–Terry by maximum likelihood, with ties, covariates of style, and sandwich intervals.

The expected score of the first model of a pair is the logistic function of the difference of the two strengths, plus
style effects. A tie scores one half, as on LMArena's leaderboard. That is a quasi-likelihood, whose estimates are right
whatever the number of ties as long as the expected score is; the sandwich estimate of the covariance takes their
smaller variance into account (Huber 1967; Chiang et al., "Chatbot Arena", 2403.04132).

Without style, all votes of a pair with one outcome are counted together, so a million votes take as long as a few
thousand. Strengths are natural logits with mean 0; a rating is 1000 + 400 / ln 10 times the strength, Elo's scale.

Shapes: V votes, or cells of equal votes; M models; K style features; P = M + K parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lotune.errors import DataError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

SCALE = 400 / math.log(10)
"""Points of a rating for one unit of strength."""
CENTRE = 1000.0
"""The mean rating of all rated models."""
Z95 = 1.959963984540054
"""Half the width of a 95 % interval, in standard errors."""
STEPS, TOLERANCE = 100, 1e-10
MAX_SPREAD = 25.0
"""Difference of two strengths that no number of votes could show: the estimate is not finite."""
OUTCOMES = (0.0, 0.5, 1.0)
"""Scores of the first model: lost, tie, won."""


@dataclass(frozen=True)
class Votes:
    """Votes as arrays: `first` and `second` (V,) number the models, `score` (V,) is 1, 0.5 or 0 for the first one.

    `style` (V, K) has differences of style, first minus second; `count` (V,) says how often each vote stands there.
    """

    models: int
    first: Integers
    second: Integers
    score: Floats
    style: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    count: Floats | None = None

    def __post_init__(self) -> None:
        if not len(self.style):
            object.__setattr__(self, "style", np.zeros((len(self.first), 0)))
        if self.count is None:
            object.__setattr__(self, "count", np.ones(len(self.first)))

    @property
    def counts(self) -> Floats:
        """How often each vote stands there, (V,)."""
        assert self.count is not None
        return self.count

    @property
    def features(self) -> int:
        """K, the number of style features."""
        return int(self.style.shape[1])

    def take(self, index: NDArray[np.bool_] | Integers) -> Votes:
        """Return the votes of an index or mask."""
        return Votes(
            self.models, self.first[index], self.second[index], self.score[index], self.style[index], self.counts[index]
        )

    def with_counts(self, counts: Floats) -> Votes:
        """Return the same votes with other counts (V,)."""
        return Votes(self.models, self.first, self.second, self.score, self.style, counts)

    def cells(self) -> Votes:
        """Return the votes with equal ones counted together; votes with style stay as they are.

        Each pair is in one order, the model of the smaller number first.
        """
        if self.features:
            return self
        swap = self.first > self.second
        low, high = np.where(swap, self.second, self.first), np.where(swap, self.first, self.second)
        outcome = np.rint(2 * np.where(swap, 1 - self.score, self.score)).astype(np.int64)
        codes = (low * self.models + high) * len(OUTCOMES) + outcome
        counts: Floats = np.bincount(codes, self.counts, self.models * self.models * len(OUTCOMES)).astype(np.float64)
        used = np.flatnonzero(counts)
        pair, outcome = np.divmod(used, len(OUTCOMES))
        return Votes(self.models, pair // self.models, pair % self.models, outcome / 2, count=counts[used])

    def games(self) -> Integers:
        """Return the number of votes on each model, (M,)."""
        both = np.concatenate((self.first, self.second))
        return np.bincount(both, np.tile(self.counts, 2), minlength=self.models).astype(np.int64)


@dataclass(frozen=True)
class Fit:
    """Estimates from votes: strengths (M,) with mean 0, effects of style (K,), and the covariance (P, P) of all.

    `inverse` (P, P) is the inverse of the information, by which influences are computed.
    """

    votes: Votes
    strengths: Floats
    effects: Floats
    covariance: Floats
    inverse: Floats

    @property
    def ratings(self) -> Floats:
        """Ratings (M,) in points."""
        return CENTRE + SCALE * self.strengths

    def errors(self) -> Floats:
        """Return the standard errors of the ratings, (M,), in points."""
        models = self.votes.models
        errors: Floats = SCALE * np.sqrt(np.diag(self.covariance)[:models].clip(0))
        return errors

    def difference_errors(self) -> Floats:
        """Return the standard error of each difference of two ratings, (M, M), in points."""
        models = self.votes.models
        block = self.covariance[:models, :models]
        variance = np.diag(block)
        errors: Floats = SCALE * np.sqrt((variance[:, None] + variance[None] - 2 * block).clip(0))
        return errors

    def intervals(self) -> Floats:
        """Return the 95 % intervals of the ratings, (M, 2)."""
        half = Z95 * self.errors()
        return np.stack((self.ratings - half, self.ratings + half), 1)

    def rank_ranges(self) -> Integers:
        """Return the best and the worst rank of each model, (M, 2), by the 95 % intervals of the differences."""
        difference = self.ratings[:, None] - self.ratings[None]
        surely = difference > Z95 * self.difference_errors()  # (M, M): the row's model is surely better
        np.fill_diagonal(surely, False)
        return np.stack((1 + surely.sum(0), self.votes.models - surely.sum(1)), 1).astype(np.int64)

    def residuals(self) -> Floats:
        """Return score minus expected score of each vote, (V,)."""
        return self.votes.score - _expected(self.votes, self.strengths, self.effects)


def fit(votes: Votes, start: Floats | None = None) -> Fit:
    """Return the maximum likelihood estimates, by Newton's method, and their covariance.

    `start` (P,) are estimates to begin with. Raises: DataError if the strengths have no finite estimate, since some
    models have only won or only lost against the others (see `connected`).
    """
    votes = votes.cells()
    models, size = votes.models, votes.models + votes.features
    estimate = np.zeros(size) if start is None else start.copy()
    likelihood = _log_likelihood(votes, estimate)
    for _ in range(STEPS):
        gradient, information = _derivatives(votes, estimate)
        step = np.linalg.solve(_anchored(information, models), gradient)
        while (new := _log_likelihood(votes, estimate + step)) < likelihood - 1e-9 * abs(likelihood):
            step /= 2
        estimate, likelihood = estimate + step, new
        if np.abs(step).max() < TOLERANCE:
            break
        if np.ptp(estimate[:models]) > MAX_SPREAD:
            raise DataError("votes", "some models have only won or only lost", "votes in both directions")
    estimate[:models] -= estimate[:models].mean()
    _, information = _derivatives(votes, estimate)
    inverse: Floats = _centred(np.linalg.inv(_anchored(information, models)).astype(np.float64), models)
    strengths, effects = estimate[:models], estimate[models:]
    residuals = votes.score - _expected(votes, strengths, effects)
    meat = _cross_products(votes, votes.counts * residuals**2)
    return Fit(votes, strengths, effects, inverse @ meat @ inverse, inverse)


def bootstrap(estimate: Fit, samples: int = 200, seed: int = 0) -> Floats:
    """Return strengths and effects of fits to votes drawn with replacement, (samples, P).

    A sample in which a model has only won or only lost is drawn again.
    """
    generator, votes = np.random.default_rng(seed), estimate.votes
    total = int(votes.counts.sum())
    start = np.concatenate((estimate.strengths, estimate.effects))
    found: list[Floats] = []
    for _ in range(20 * samples):
        counts = generator.multinomial(total, votes.counts / votes.counts.sum()).astype(np.float64)
        used = counts > 0
        drawn = votes.with_counts(counts).take(used)
        if len(connected(drawn)) < votes.models:
            continue
        one = fit(drawn, start)
        found.append(np.concatenate((one.strengths, one.effects)))
        if len(found) == samples:
            break
    return np.array(found)


def connected(votes: Votes) -> Integers:
    """Return the models that can be rated together, the largest group: each has scored, over others, against each.

    Strengths have a finite estimate if and only if one can go from any model to any other along votes in which the
    latter scored (Zermelo 1929, Ford 1957).
    """
    cells = votes.cells()
    won, lost = cells.score > 0, cells.score < 1
    reach = np.eye(votes.models, dtype=np.float32)  # from which model one can go to which
    reach[cells.first[won], cells.second[won]] = 1
    reach[cells.second[lost], cells.first[lost]] = 1
    for _ in range(max(1, votes.models).bit_length()):
        reach = np.minimum(reach @ reach, 1)
    together = (reach > 0) & (reach.T > 0)  # (M, M)
    order = np.lexsort((together @ votes.games(), together.sum(1)))
    members: Integers = np.flatnonzero(together[order[-1]]).astype(np.int64)
    return members


def restrict(votes: Votes, models: Sequence[int] | Integers) -> Votes:
    """Return the votes between some models, which are numbered anew in that order."""
    numbers = np.full(votes.models, -1, np.int64)
    numbers[np.asarray(models, np.int64)] = np.arange(len(models))
    kept = votes.take((numbers[votes.first] >= 0) & (numbers[votes.second] >= 0))
    return Votes(len(models), numbers[kept.first], numbers[kept.second], kept.score, kept.style, kept.counts)


def _logits(votes: Votes, strengths: Floats, effects: Floats) -> Floats:
    logits: Floats = strengths[votes.first] - strengths[votes.second]
    return logits + votes.style @ effects if votes.features else logits


def _expected(votes: Votes, strengths: Floats, effects: Floats) -> Floats:
    """Return the expected score of each vote, (V,)."""
    expected: Floats = 0.5 * (1 + np.tanh(0.5 * _logits(votes, strengths, effects)))
    return expected


def _log_likelihood(votes: Votes, estimate: Floats) -> float:
    logits = _logits(votes, estimate[: votes.models], estimate[votes.models :])
    return float((votes.counts * (votes.score * logits - np.logaddexp(0, logits))).sum())


def _derivatives(votes: Votes, estimate: Floats) -> tuple[Floats, Floats]:
    """Return the gradient (P,) of the log-likelihood, and the information (P, P)."""
    expected = _expected(votes, estimate[: votes.models], estimate[votes.models :])
    residuals = votes.counts * (votes.score - expected)
    models = votes.models
    by_model = np.bincount(votes.first, residuals, models) - np.bincount(votes.second, residuals, models)
    gradient = np.concatenate((by_model, residuals @ votes.style))
    return gradient, _cross_products(votes, votes.counts * expected * (1 - expected))


def _cross_products(votes: Votes, weights: Floats) -> Floats:
    """Return the sum over votes of weight times x xᵀ, (P, P); x has 1, -1 at the two models, and the style."""
    models, size = votes.models, votes.models + votes.features
    between = np.bincount(votes.first * models + votes.second, weights, models * models).reshape(models, models)
    between = between + between.T
    products = np.zeros((size, size))
    products[:models, :models] = np.diag(between.sum(0)) - between
    for number in range(votes.features):
        column = weights * votes.style[:, number]
        mixed = np.bincount(votes.first, column, models) - np.bincount(votes.second, column, models)
        products[:models, models + number] = products[models + number, :models] = mixed
        products[models + number, models:] = column @ votes.style
    return products


def _anchored(information: Floats, models: int) -> Floats:
    """Return the information with terms that fix what no vote tells: the sum of the strengths, a constant feature."""
    anchored = information.copy()
    anchored[:models, :models] += information[:models, :models].diagonal().mean() / models + 1e-12
    effects = np.arange(models, len(information))
    anchored[effects, effects] += 1e-9 * (1 + information[effects, effects])
    return anchored


def _centred(inverse: Floats, models: int) -> Floats:
    """Return an inverse (P, P) for strengths whose mean is 0."""
    project = np.eye(len(inverse))
    project[:models, :models] -= 1 / models
    return project @ inverse @ project.T
