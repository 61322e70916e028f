"""Which two models meet next: the pair whose vote shrinks the widest interval most.

A vote between i and j changes the inverse information C of the strengths by the formula of Sherman and Morrison. The
variance of model m falls by w (C_mi - C_mj)² / (1 + w v_ij), where v_ij is the variance of the difference and
w = p (1 - p), the information of a vote with the expected score p.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lotune.arena.ratings import Fit, Floats, Integers

RANDOM_SHARE = 0.05
"""Share of pairs that are drawn without regard to the intervals, so that no pair is never seen."""


class Pairing:
    """Draws pairs after a fit; each pair is taken as voted on, so that many battles at once are not all the same."""

    def __init__(self, estimate: Fit) -> None:
        models = estimate.votes.models
        self._inverse = estimate.inverse[:models, :models].copy()
        variance = np.diag(estimate.covariance)[:models]
        self._scale = variance / np.diag(self._inverse).clip(1e-12)  # ties vary less than the information says
        expected = 1 / (1 + np.exp(estimate.strengths[None] - estimate.strengths[:, None]))
        self._weight: Floats = expected * (1 - expected)

    def next(self) -> tuple[int, int]:
        """Return the pair whose vote shrinks the widest interval most."""
        widest = int(np.argmax(np.diag(self._inverse) * self._scale))
        gain = variance_reduction(self._inverse, self._weight, widest)
        first, second = (int(place) for place in np.unravel_index(int(np.argmax(gain)), gain.shape))
        change = self._inverse[first] - self._inverse[second]
        weight = self._weight[first, second]
        self._inverse -= weight * np.outer(change, change) / (1 + weight * (change[first] - change[second]))
        return first, second


def next_pair(
    games: Integers, fewest: int, pairing: Callable[[], Pairing | None], generator: np.random.Generator
) -> tuple[int, int]:
    """Return two different models, in random order.

    `games` (M,) has the votes on each model. As long as a model has fewer than `fewest`, the one with the fewest meets
    another of few; so do models while `pairing` returns None, as no ratings exist yet.
    """
    if games.min() >= fewest and generator.random() < RANDOM_SHARE:
        first, second = map(int, generator.choice(len(games), 2, replace=False))
        return first, second
    known = None if games.min() < fewest else pairing()
    pair = _fewest(games, generator) if known is None else known.next()
    return pair if generator.random() < 0.5 else (pair[1], pair[0])


def variance_reduction(inverse: Floats, weight: Floats, model: int) -> Floats:
    """Return by how much a vote of each pair reduces the variance of a model, (M, M); 0 on the diagonal.

    `inverse` (M, M) is the inverse information, `weight` (M, M) the information of a vote of each pair.
    """
    row, diagonal = inverse[model], np.diag(inverse)
    between = diagonal[:, None] + diagonal[None] - 2 * inverse
    gain: Floats = weight * (row[:, None] - row[None]) ** 2 / (1 + weight * between)
    return gain


def _fewest(games: Integers, generator: np.random.Generator) -> tuple[int, int]:
    order = np.lexsort((generator.random(len(games)), games))
    return int(order[0]), int(order[1])
