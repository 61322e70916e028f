"""The leaderboard of an arena: ratings with intervals, what was left out and why, and how few votes decide it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from lotune.arena.influence import few_votes
from lotune.arena.ratings import CENTRE, SCALE, Z95, Floats, Votes, bootstrap, connected, fit, restrict
from lotune.arena.store import PEOPLE, SCORES, Summary
from lotune.arena.style import FEATURES, style_differences
from lotune.arena.voters import Ballot, exclusions

FEWEST_GAMES = 20
"""A model with fewer counted votes is not rated."""
BOOTSTRAP_SAMPLES = 100
ELO_STEP = 4.0
"""K of the Elo rating, as on LMArena's leaderboard."""


@dataclass(frozen=True)
class Filters:
    """Which votes count, and how: None for votes of any language or category.

    `judge` is "people" or the name of a judge. `style` makes length and style of the answers covariates.
    """

    language: str | None = None
    category: str | None = None
    judge: str = PEOPLE
    style: bool = False
    fewest_games: int = FEWEST_GAMES


@dataclass(frozen=True)
class Place:
    """A model on the leaderboard; a model that is not rated has None in place of figures, and the reason.

    `interval` is the 95 % interval by the sandwich estimate, `bootstrap` that by bootstrap; `rank` and `worst_rank` are
    the ranks that the intervals of the differences allow; `wins` counts ties as halves.
    """

    model: str
    games: int
    wins: float
    rating: float | None = None
    interval: tuple[float, float] | None = None
    bootstrap: tuple[float, float] | None = None
    rank: int | None = None
    worst_rank: int | None = None
    elo: float | None = None
    unrated: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard. `matrix` has the share of wins of row against column, None where they never met.

    `left_out` counts the votes that do not count, by reason. `few_votes` says how few votes decide the first place.
    `effects` has the effect of each feature of style, in points for one standard deviation, with its 95 % interval.
    """

    filters: Filters
    votes: int
    places: tuple[Place, ...]
    matrix: Mapping[str, Mapping[str, float | None]]
    left_out: Mapping[str, int]
    voters_left_out: int = 0
    few_votes: Mapping[str, Any] | None = None
    effects: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the leaderboard as JSON."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)

    def to_csv(self) -> str:
        """Return the places as CSV. A name that a spreadsheet would take for a formula has an apostrophe before it."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["rank", "worst_rank", "model", "rating", "low", "high", "bootstrap_low", "bootstrap_high", "elo", "games",
             "wins", "unrated"]
        )  # fmt: skip
        for place in self.places:
            intervals = (*(place.interval or (None, None)), *(place.bootstrap or (None, None)))
            figures = [None if value is None else round(value, 2) for value in (place.rating, *intervals, place.elo)]
            name = f"'{place.model}" if place.model[:1] in tuple("=+-@\t\r") else place.model
            writer.writerow([place.rank, place.worst_rank, name, *figures, place.games, place.wins, place.unrated])
        return file.getvalue()


def leaderboard(
    summaries: Sequence[Summary], filters: Filters | None = None, *, samples: int = BOOTSTRAP_SAMPLES
) -> Leaderboard:
    """Return the leaderboard of votes, given as `VoteStore.summaries` has them; `samples` is for the bootstrap."""
    filters = filters or Filters()
    rows, left_out = _counted(summaries, filters)
    names = sorted({name for row in rows for name in (row.model_a, row.model_b)})
    number = {name: place for place, name in enumerate(names)}
    ballots = [
        Ballot(row.visitor, row.prompt, number[row.model_a], number[row.model_b], SCORES[row.verdict]) for row in rows
    ]
    voters = 0
    if filters.judge == PEOPLE:
        found = exclusions(ballots, len(names))
        left_out["given twice"] = len(found.repeated)
        left_out.update({f"voter {reason}": len(places) for reason, places in found.suspicious.items()})
        kept = [place for place in range(len(rows)) if place not in found.votes]
        rows, ballots, voters = [rows[place] for place in kept], [ballots[place] for place in kept], found.voters
    votes = _arrays(rows, ballots, len(names), filters.style)
    places, extra = _places(votes, names, filters, samples)
    counted = {reason: count for reason, count in left_out.items() if count}
    return Leaderboard(filters, len(rows), places, _matrix(votes, names), counted, voters, **extra)


def _counted(summaries: Sequence[Summary], filters: Filters) -> tuple[list[Summary], Counter[str]]:
    """Return the votes of the filters that show no name, and the count of the others of the filters."""
    chosen = [
        row
        for row in summaries
        if row.judge == filters.judge
        and filters.language in (None, row.language)
        and filters.category in (None, row.category)
        and row.model_a != row.model_b
    ]
    rows = [row for row in chosen if not row.named]
    return rows, Counter({"a name was given away": len(chosen) - len(rows)})


def _arrays(rows: Sequence[Summary], ballots: Sequence[Ballot], models: int, style: bool) -> Votes:
    first, second = (np.array([getattr(one, side) for one in ballots], np.int64) for side in ("left", "right"))
    scores = np.array([one.score for one in ballots], np.float64)
    if not style or not rows:
        return Votes(models, first, second, scores)
    counts = (
        [orjson.loads(text) or [0] * len(FEATURES) for text in texts]
        for texts in ((row.style_a for row in rows), (row.style_b for row in rows))
    )
    return Votes(models, first, second, scores, style_differences(*counts))


def _places(
    votes: Votes, names: Sequence[str], filters: Filters, samples: int
) -> tuple[tuple[Place, ...], dict[str, Any]]:
    """Return the places, rated models first, and the figures of the leaderboard that come from the fit."""
    games, unrated = votes.games(), dict[int, str]()
    rated = [model for model in range(len(names)) if games[model] >= filters.fewest_games]
    unrated |= {model: f"fewer than {filters.fewest_games} votes" for model in range(len(names)) if model not in rated}
    if rated:
        members = [rated[place] for place in connected(restrict(votes, rated))]
        unrated |= {model: _why_apart(votes, model) for model in rated if model not in members}
        rated = members
    wins = np.bincount(votes.first, votes.score, len(names)) + np.bincount(votes.second, 1 - votes.score, len(names))
    elo = _elo(votes, names)
    plain = {
        model: Place(name, int(games[model]), float(wins[model]), elo=elo.get(model))
        for model, name in enumerate(names)
    }
    if len(rated) < 2:
        reasons = {**dict.fromkeys(rated, "no other model is rated"), **unrated}
        return tuple(
            replace(plain[model], unrated=reasons[model]) for model in sorted(plain, key=lambda m: -games[m])
        ), {}
    estimate = fit(restrict(votes, rated))
    drawn = bootstrap(estimate, samples) if samples and not filters.style else np.zeros((0, len(rated)))
    ranks, intervals = estimate.rank_ranges(), estimate.intervals()
    places = [
        replace(
            plain[model],
            rating=float(estimate.ratings[place]),
            interval=_pair(intervals[place]),
            bootstrap=_pair(CENTRE + SCALE * np.percentile(drawn[:, place], (2.5, 97.5))) if len(drawn) else None,
            rank=int(ranks[place, 0]),
            worst_rank=int(ranks[place, 1]),
        )
        for place, model in enumerate(rated)
    ]
    places.sort(key=lambda place: -(place.rating or 0))
    left = sorted(unrated, key=lambda model: -games[model])
    extra: dict[str, Any] = {}
    if (few := few_votes(estimate)) is not None:
        extra["few_votes"] = {
            "votes": few.votes, "fraction": few.fraction, "model": names[rated[few.model]], "confirmed": few.confirmed,
        }  # fmt: skip
    if filters.style:
        errors = np.sqrt(np.diag(estimate.covariance)[len(rated) :])
        extra["effects"] = {
            name: tuple(float(SCALE * value) for value in (effect, effect - Z95 * error, effect + Z95 * error))
            for name, effect, error in zip(FEATURES, estimate.effects, errors, strict=True)
        }
    return (*places, *(replace(plain[model], unrated=unrated[model]) for model in left)), extra


def _pair(values: Floats) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _why_apart(votes: Votes, model: int) -> str:
    own = np.concatenate((votes.score[votes.first == model], 1 - votes.score[votes.second == model]))
    if own.min() == 1:
        return "has won every battle"
    return "has lost every battle" if own.max() == 0 else "has no battles that link it to the others in both directions"


def _elo(votes: Votes, names: Sequence[str]) -> dict[int, float]:
    """Return the Elo rating of each model after all votes in their order; empty without evalica."""
    try:
        import evalica
        import pandas  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return {}
    if not len(votes.first):
        return {}
    winners = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}
    first, second = votes.first.tolist(), votes.second.tolist()
    result = evalica.elo(
        first, second, [winners[score] for score in votes.score.tolist()],
        index=pandas.Index(range(len(names))), initial=CENTRE, k=ELO_STEP,
    )  # fmt: skip
    return {int(model): float(score) for model, score in result.scores.items()}


def _matrix(votes: Votes, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    models = len(names)
    code, back = votes.first * models + votes.second, votes.second * models + votes.first
    games = np.bincount(np.concatenate((code, back)), minlength=models**2).reshape(models, models)
    scores = np.concatenate((votes.score, 1 - votes.score))
    won = np.bincount(np.concatenate((code, back)), scores, models**2).reshape(models, models)
    return {
        name: {
            other: float(won[i, j] / games[i, j]) if games[i, j] else None for j, other in enumerate(names) if i != j
        }
        for i, name in enumerate(names)
    }
