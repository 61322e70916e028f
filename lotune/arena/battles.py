"""Battles in progress: two models without names answer a person, who then votes.

A battle is held in memory until its vote is written. One whose model failed or stalled has no vote.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lotune.arena.battle_fields import battle_fields
from lotune.arena.leaderboard import FEWEST_GAMES
from lotune.arena.pairing import Pairing, next_pair
from lotune.arena.ratings import Votes, connected, fit
from lotune.arena.store import SCORES, Summary, Verdict, Vote, VoteStore
from lotune.errors import DataError, LotuneError

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
MAX_OPEN = 2000
"""Battles in progress; the oldest one gives way."""
MAX_TURNS = 20
REST_SECONDS = 60.0
"""Time for which an opponent that failed is not drawn."""
REFIT_SECONDS = 5.0
"""Shortest time between two fits for the choice of pairs."""


class BattleError(LotuneError):
    """A battle cannot go on: `status` is that of HTTP."""

    def __init__(self, found: str, status: int = 409) -> None:
        super().__init__("battle", found)
        self.status = status


@dataclass(frozen=True)
class Opponent:
    """A model that can battle: digest of its weights and its prompt template, empty for those of other servers."""

    name: str
    digest: str = ""
    template: str = ""


@dataclass
class Battle:
    """One battle between two opponents, by side; `answering` while a turn is under way."""

    id: str
    visitor: str
    opponents: Mapping[Side, Opponent]
    settings: Mapping[str, Any]
    turns: list[tuple[str, str, str]] = field(default_factory=list)
    answering: bool = False
    failed: bool = False
    voted: bool = False

    def messages(self, side: Side, prompt: str) -> list[dict[str, str]]:
        """Return the conversation with the model of a side, up to a new prompt."""
        found: list[dict[str, str]] = []
        for asked, *answers in self.turns:
            found += [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answers[SIDES.index(side)]},
            ]
        return [*found, {"role": "user", "content": prompt}]


class Arena:
    """The opponents of an arena, its battles in progress, and its votes."""

    def __init__(
        self,
        opponents: Sequence[Opponent],
        store: VoteStore,
        settings: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        seed: int | None = None,
    ) -> None:
        self.opponents = {opponent.name: opponent for opponent in opponents}
        self.store, self.settings = store, settings
        self._clock, self._generator = clock, np.random.default_rng(seed)
        self._battles: OrderedDict[str, Battle] = OrderedDict()
        self._failed: dict[str, float] = {}
        self._pairings: dict[tuple[str, ...], tuple[float, Pairing | None]] = {}
        self._votes = _PairCounts(store)

    def start(self, visitor: str) -> Battle:
        """Return a new battle. Raises: BattleError if fewer than two opponents are well."""
        names = self.well()
        if len(names) < 2:
            raise BattleError("fewer than two opponents answer at present", 503)
        games = self._votes.games(names)
        first, second = next_pair(games, FEWEST_GAMES, lambda: self._pairing(tuple(names)), self._generator)
        pair: dict[Side, Opponent] = {"a": self.opponents[names[first]], "b": self.opponents[names[second]]}
        battle = Battle(secrets.token_urlsafe(16), visitor, pair, self.settings)
        self._battles[battle.id] = battle
        while len(self._battles) > MAX_OPEN:
            self._battles.popitem(last=False)
        return battle

    def battle(self, id: str, visitor: str) -> Battle:
        """Return a battle of a visitor. Raises: BattleError if the visitor has no such battle."""
        battle = self._battles.get(id)
        if battle is None or battle.visitor != visitor:
            raise BattleError("there is no such battle; it may have been left for too long", 404)
        return battle

    def begin_turn(self, battle: Battle) -> None:
        """Begin a turn. Raises: BattleError if the battle has ended, failed, or answers already."""
        if battle.voted or battle.failed or len(battle.turns) >= MAX_TURNS:
            raise BattleError("the battle has ended; start a new one")
        if battle.answering:
            raise BattleError("the models are still answering")
        battle.answering = True

    def end_turn(self, battle: Battle, prompt: str, answers: Mapping[Side, str | None]) -> None:
        """End a turn with the answer of each side, None for one that failed: the battle then has no vote."""
        battle.answering = False
        for side in SIDES:
            if answers[side] is None:
                battle.failed = True
                self._failed[battle.opponents[side].name] = self._clock()
        if not battle.failed:
            battle.turns.append((prompt, answers["a"] or "", answers["b"] or ""))

    def leave_turn(self, battle: Battle) -> None:
        """End a turn that the person stopped or left: it counts as never asked."""
        battle.answering = False

    def vote(self, battle: Battle, verdict: Verdict) -> Vote:
        """Write a vote and return it. Raises: BattleError if there is nothing to vote on, or a vote already."""
        if battle.failed:
            raise BattleError("a model failed, so this battle has no vote")
        if battle.answering or not battle.turns:
            raise BattleError("there are no answers to vote on yet")
        if battle.voted:
            raise BattleError("this battle has its vote")
        vote = _vote(battle, verdict)
        if not self.store.add(vote):
            raise BattleError("this battle has its vote")
        battle.voted = True
        self._votes.count(vote)
        return vote

    def well(self) -> list[str]:
        """Return the names of the opponents that did not fail within the last minute."""
        now = self._clock()
        self._failed = {name: since for name, since in self._failed.items() if now - since < REST_SECONDS}
        return [name for name in self.opponents if name not in self._failed]

    def _pairing(self, names: tuple[str, ...]) -> Pairing | None:
        """Return pairs after a fit to the votes between some opponents that is at most some seconds old.

        None if not all can be rated.
        """
        now = self._clock()
        known = self._pairings.get(names)
        if known is None or now - known[0] >= REFIT_SECONDS:
            self._pairings = {names: (now, self._fit(names))}
        return self._pairings[names][1]

    def _fit(self, names: tuple[str, ...]) -> Pairing | None:
        votes = self._votes.between(names)
        if len(connected(votes)) < len(names):
            return None
        try:
            return Pairing(fit(votes))
        except DataError:
            return None


class _PairCounts:
    """The number of votes by models and outcome, kept up to date as votes come."""

    def __init__(self, store: VoteStore) -> None:
        self._counts: dict[tuple[str, str, float], int] = defaultdict(int)
        for vote in store.summaries():
            self.count(vote)

    def count(self, vote: Vote | Summary) -> None:
        """Count a vote that gave no name away."""
        if not vote.named:
            self._counts[vote.model_a, vote.model_b, SCORES[vote.verdict]] += 1

    def games(self, names: Sequence[str]) -> Any:
        return self.between(names).games()

    def between(self, names: Sequence[str]) -> Votes:
        """Return the votes between some models, numbered in that order."""
        number = {name: place for place, name in enumerate(names)}
        cells = [
            (number[a], number[b], score, count)
            for (a, b, score), count in self._counts.items()
            if a in number and b in number
        ]
        columns = np.array(cells, np.float64).reshape(-1, 4).T
        return Votes(len(names), columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2], count=columns[3])


def _vote(battle: Battle, verdict: Verdict) -> Vote:
    a, b = battle.opponents["a"], battle.opponents["b"]
    return Vote(
        battle.id, time.time(), battle.visitor, a.name, b.name, verdict, tuple(battle.turns),
        a.digest, b.digest, a.template, b.template, battle.settings, **battle_fields(battle.turns, [a.name, b.name]),
    )  # fmt: skip
