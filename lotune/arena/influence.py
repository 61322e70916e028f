"""How few votes decide the first place: an influence function names them, and one refit without them confirms it.

Dropping .003 % of Chatbot Arena's votes changes its first place (Huang et al., "Dropping just a handful of preferences
can change top large language model rankings", 2508.11847), so a leaderboard without this figure claims too much. The
approximation is that of Broderick, Giordano and Meager (2011.14999).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lotune.arena.ratings import Fit, Floats, connected, fit
from lotune.errors import DataError

MORE_VOTES = 1.25
"""Factor on the number of votes that are dropped where fewer do not suffice."""
ATTEMPTS = 6


@dataclass(frozen=True)
class FewVotes:
    """The smallest known number of votes without which another model is first.

    `model` is the number of that model. `confirmed` says whether a refit without them has it first.
    """

    votes: int
    total: int
    model: int
    confirmed: bool

    @property
    def fraction(self) -> float:
        """The votes as a fraction of all."""
        return self.votes / self.total


def few_votes(estimate: Fit) -> FewVotes | None:
    """Return the votes that decide the first place; None for fewer than two models, or if no votes would do."""
    strengths, votes = estimate.strengths, estimate.votes
    if len(strengths) < 2:
        return None
    order = np.argsort(-strengths)
    leader, best = int(order[0]), None
    for challenger in map(int, order[1:]):
        influence = _influence(estimate, leader, challenger)  # (V,), of one vote
        found = _needed(influence, votes.counts, float(strengths[leader] - strengths[challenger]))
        if found is not None and (best is None or found < best[0]):
            best = (found, challenger, influence)
    if best is None:
        return None
    needed, challenger, influence = best
    for _ in range(ATTEMPTS):
        if _changes(estimate, influence, needed, leader):
            return FewVotes(needed, int(votes.counts.sum()), challenger, True)
        needed = max(needed + 1, int(needed * MORE_VOTES))
    return FewVotes(best[0], int(votes.counts.sum()), challenger, False)


def _influence(estimate: Fit, leader: int, challenger: int) -> Floats:
    """Return by how much one vote of each kind raises the lead over the challenger, (V,)."""
    votes, models = estimate.votes, estimate.votes.models
    direction = estimate.inverse[leader] - estimate.inverse[challenger]  # (P,)
    along: Floats = direction[votes.first] - direction[votes.second]
    if votes.features:
        along = along + votes.style @ direction[models:]
    return along * estimate.residuals()


def _needed(influence: Floats, counts: Floats, lead: float) -> int | None:
    """Return how many of the most influential votes hold the lead, None if all together do not."""
    order = np.argsort(-influence)
    order = order[influence[order] > 0]
    held = np.cumsum(influence[order] * counts[order])
    place = int(np.searchsorted(held, lead))
    if place == len(order):
        return None
    before = float(held[place - 1]) if place else 0.0
    number = float(counts[order[:place]].sum())
    return int(number + np.ceil((lead - before) / influence[order[place]] + 1e-9))


def _changes(estimate: Fit, influence: Floats, number: int, leader: int) -> bool:
    """Return whether another model is first without so many of the most influential votes."""
    order = np.argsort(-influence)
    left = estimate.votes.counts.copy()
    for place in order:
        taken = min(number, left[place])
        left[place] -= taken
        number -= int(taken)
        if number <= 0:
            break
    votes = estimate.votes.with_counts(left).take(left > 0)
    if leader not in (members := connected(votes)) or len(members) < votes.models:
        return leader not in members
    try:
        return int(np.argmax(fit(votes).strengths)) != leader
    except DataError:
        return False
