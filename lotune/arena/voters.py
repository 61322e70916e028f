"""Votes that should not count: of voters who repeat themselves, always take one side, or push one model.

Each test gives a probability under honest voting, and a voter is left out if the smallest is below `LEVEL`, divided by
the number of tests and voters (Bonferroni), so that of all honest crowds one in a hundred loses anybody.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lotune.arena.ratings import OUTCOMES, Floats, Integers, Votes, connected, fit, restrict

LEVEL = 0.01
"""Probability that the votes of an honest crowd lose anybody."""
FEWEST_VOTES = 10
"""A voter with fewer votes is not tested: so few votes move nothing."""


@dataclass(frozen=True)
class Exclusions:
    """Votes to leave out, by their places: repeated ones, and those of suspicious voters, by reason."""

    repeated: tuple[int, ...]
    suspicious: Mapping[str, tuple[int, ...]]
    voters: int
    """Number of suspicious voters."""

    @property
    def votes(self) -> set[int]:
        """All places."""
        return {*self.repeated, *(place for places in self.suspicious.values() for place in places)}


@dataclass(frozen=True)
class Ballot:
    """What the tests read of a vote: who voted on which prompt, with which models at the left and at the right."""

    voter: str
    prompt: str
    left: int
    right: int
    score: float
    """Score of the model at the left: 1, 0.5 or 0."""


def exclusions(ballots: Sequence[Ballot], models: int) -> Exclusions:
    """Return the votes that should not count; ballots are in the order in which they were given."""
    repeated = _repeated(ballots)
    places = [place for place in range(len(ballots)) if place not in repeated]
    by_voter: dict[str, list[int]] = defaultdict(list)
    for place in places:
        by_voter[ballots[place].voter].append(place)
    tested = {voter: found for voter, found in by_voter.items() if len(found) >= FEWEST_VOTES}
    suspicious: dict[str, list[int]] = defaultdict(list)
    voters, level = 0, LEVEL / max(1, len(tested) * 2)
    everyone = _table([ballots[place] for place in places], models)
    for found in tested.values():
        own = [ballots[place] for place in found]
        if one_side(own) < level:
            reason = "always one side"
        elif pushed_model(own, everyone - _table(own, models)) < level:
            reason = "pushes a model"
        else:
            continue
        voters += 1
        suspicious[reason] += found
    return Exclusions(tuple(sorted(repeated)), {reason: tuple(found) for reason, found in suspicious.items()}, voters)


def _repeated(ballots: Sequence[Ballot]) -> set[int]:
    """Return the places of votes that the same voter gave before, on the same prompt and models."""
    seen, repeated = set(), set()
    for place, ballot in enumerate(ballots):
        key = (ballot.voter, ballot.prompt, *sorted((ballot.left, ballot.right)))
        if key in seen:
            repeated.add(place)
        seen.add(key)
    return repeated


def one_side(ballots: Sequence[Ballot]) -> float:
    """Return the probability that a voter who looks at the answers takes sides so unevenly.

    Sides are drawn, so the left one wins half of the decided battles of any honest voter. A voter of nothing but ties
    is as blind.
    """
    left, right = (sum(ballot.score == score for ballot in ballots) for score in (1.0, 0.0))
    ties = len(ballots) - left - right
    if not left + right:
        return 0.5**ties
    decided, fewer = left + right, min(left, right)
    return min(1.0, float(2 * sum(math.comb(decided, number) for number in range(fewer + 1)) / 2**decided))


def pushed_model(ballots: Sequence[Ballot], others: Floats) -> float:
    """Return the probability of the voter's scores of a model, the least of all models, if others rate it rightly.

    `others` (M, M, 3) counts the votes of all other voters by left model, right model, and outcome. The expected scores
    are those of a fit to these votes; the excess of a model's score, divided by its standard deviation, is normal for
    an honest voter. The probability is corrected for the number of models.
    """
    strengths, models = _strengths(others), len(others)
    if strengths is None:
        return 1.0
    excess, variance = np.zeros(models), np.zeros(models)
    for ballot in ballots:
        difference = strengths[ballot.left] - strengths[ballot.right]
        if not math.isfinite(difference):
            continue
        expected = 1 / (1 + math.exp(-difference))
        for model, sign in ((ballot.left, 1), (ballot.right, -1)):
            excess[model] += sign * (ballot.score - expected)
            variance[model] += expected * (1 - expected)
    enough = variance > 1  # below it the sum is not normal
    if not enough.any():
        return 1.0
    largest = float((np.abs(excess[enough]) / np.sqrt(variance[enough])).max())
    return min(1.0, math.erfc(largest / math.sqrt(2)) * int(enough.sum()))


def _table(ballots: Sequence[Ballot], models: int) -> Floats:
    """Return the number of votes by left model, right model, and outcome, (M, M, 3)."""
    codes = [(one.left * models + one.right) * len(OUTCOMES) + OUTCOMES.index(one.score) for one in ballots]
    counts = np.bincount(np.array(codes, np.int64), minlength=models * models * len(OUTCOMES))
    return counts.reshape(models, models, len(OUTCOMES)).astype(np.float64)


def _strengths(table: Floats) -> Floats | None:
    """Return the strengths (M,) by a table of votes (M, M, 3), nan for models that it does not rate; None for none."""
    models = len(table)
    first, second, outcome = np.nonzero(table)
    votes = Votes(models, first, second, np.array(OUTCOMES)[outcome], count=table[first, second, outcome])
    members: Integers = connected(votes)
    if len(members) < 2:
        return None
    strengths = np.full(models, np.nan)
    strengths[members] = fit(restrict(votes, members)).strengths
    return strengths
