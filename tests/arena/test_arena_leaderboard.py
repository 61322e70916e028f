"""A leaderboard counts the votes that should count, and says what it left out."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from arena_votes import scores, vote
from command_line import call

from lotune.arena.leaderboard import Filters, Leaderboard, leaderboard
from lotune.arena.picture import leaderboard_svg
from lotune.arena.store import Vote, VoteStore
from lotune.arena.voters import Ballot, exclusions, one_side

VERDICT: dict[float, Any] = {1.0: "model_a", 0.5: "tie", 0.0: "model_b"}
STRENGTHS = np.array([0.8, 0.2, -1.0])


def crowd(count: int, seed: int = 0, voters: int = 40) -> list[Vote]:
    """Votes of honest people on three models."""
    generator, votes = np.random.default_rng(seed), []
    for number in range(count):
        a, b = generator.choice(3, 2, replace=False)
        [score] = scores(STRENGTHS[[a]] - STRENGTHS[[b]], generator)
        votes.append(
            vote(
                number, model_a=f"m{a}", model_b=f"m{b}", verdict=VERDICT[float(score)], visitor=f"v{number % voters}",
                style_a=(int(generator.integers(1, 50)), 0, 0, 0), style_b=(int(generator.integers(1, 50)), 0, 0, 0),
                language="en" if number % 2 else "zh", category="math",
            )
        )  # fmt: skip
    return votes


def board(votes: list[Vote], tmp_path: Path, filters: Filters | None = None, samples: int = 0) -> Leaderboard:
    store = VoteStore(tmp_path / "votes.sqlite")
    store.replace(votes)
    return leaderboard(store.summaries(), filters, samples=samples)


def test_models_are_ranked_with_intervals_and_how_few_votes_decide(tmp_path: Path) -> None:
    found = board(crowd(1500), tmp_path, samples=50)
    assert [place.model for place in found.places] == ["m0", "m1", "m2"]
    assert [place.rank for place in found.places] == [1, 2, 3]
    for place, strength in zip(found.places, STRENGTHS, strict=True):
        assert place.interval is not None
        assert place.elo is not None
        assert place.interval[0] < 1000 + 173.7 * strength < place.interval[1]
        assert place.bootstrap == pytest.approx(place.interval, abs=12)
    assert found.votes == 1500
    assert found.left_out == {}
    assert found.few_votes is not None
    assert found.few_votes["model"] == "m1"
    assert 0 < found.few_votes["votes"] < 300
    assert found.matrix["m0"]["m2"] == pytest.approx(1 - (found.matrix["m2"]["m0"] or 0))


def test_filters_choose_votes(tmp_path: Path) -> None:
    votes = crowd(600)
    assert board(votes, tmp_path, Filters(language="zh")).votes == 300
    assert board(votes, tmp_path, Filters(category="code")).places == ()
    judged = [replace(one, battle=f"j{one.battle}", judge="exact") for one in votes[:100]]
    assert board([*votes, *judged], tmp_path, Filters(judge="exact")).votes == 100
    assert board([*votes, *judged], tmp_path).votes == 600


def test_style_is_a_covariate(tmp_path: Path) -> None:
    found = board(crowd(1500), tmp_path, Filters(style=True))
    effect, low, high = found.effects["length"]
    assert low < 0 < high  # lengths were drawn without regard to the votes
    assert effect == pytest.approx(0, abs=20)


def test_models_without_a_rating_say_why(tmp_path: Path) -> None:
    votes = crowd(600)
    votes += [vote(2000 + n, model_a="winner", model_b="m1", verdict="model_a", visitor=f"w{n}") for n in range(30)]
    votes += [vote(3000, model_a="new", model_b="m1", verdict="model_a")]
    places = {place.model: place for place in board(votes, tmp_path).places}
    assert places["winner"].unrated == "has won every battle"
    assert places["new"].unrated == "fewer than 20 votes"
    assert places["m0"].rating is not None


def test_leaks_repeats_and_suspicious_voters_do_not_count(tmp_path: Path) -> None:
    votes = crowd(2000)
    named = [replace(one, battle=f"n{one.battle}", named=True) for one in votes[:10]]
    twice = [replace(one, battle=f"t{one.battle}") for one in votes[20:25]]
    left = [vote(5000 + n, model_a=f"m{n % 2}", model_b="m2", verdict="model_a", visitor="machine") for n in range(40)]
    push = [
        vote(
            6000 + n, visitor="friend", model_a="m2" if n % 2 else "m0", model_b="m0" if n % 2 else "m2",
            verdict="model_a" if n % 2 else "model_b",
        )
        for n in range(40)
    ]  # fmt: skip
    found = board([*votes, *named, *twice, *left, *push], tmp_path)
    assert found.left_out == {
        "a name was given away": 10, "given twice": 5, "voter always one side": 40, "voter pushes a model": 40,
    }  # fmt: skip
    assert found.voters_left_out == 2
    assert found.votes == 2000


def test_honest_crowds_lose_nobody() -> None:
    lost = 0
    for seed in range(30):
        votes = crowd(800, seed, voters=20)
        number = {"m0": 0, "m1": 1, "m2": 2}
        ballots = [
            Ballot(
                one.visitor,
                one.battle,
                number[one.model_a],
                number[one.model_b],
                {"model_a": 1.0, "tie": 0.5}.get(one.verdict, 0.0),
            )
            for one in votes
        ]
        lost += exclusions(ballots, 3).voters
    assert lost <= 2


def test_one_side_is_the_binomial_test() -> None:
    from scipy.stats import binomtest

    for left, right in ((9, 1), (10, 0), (6, 5), (0, 12)):
        ballots = [Ballot("v", str(n), 0, 1, 1.0 if n < left else 0.0) for n in range(left + right)]
        assert one_side(ballots) == pytest.approx(binomtest(left, left + right).pvalue)


def test_the_terminal_shows_the_leaderboard(tmp_path: Path) -> None:
    VoteStore(tmp_path / "votes.sqlite").replace([*crowd(600), vote(3000, model_a="new", model_b="m1")])
    out = tmp_path / "board.csv"
    shown = call("arena", "leaderboard", "--votes", tmp_path / "votes.sqlite", "--out", out, "--style", status=0).stdout
    assert [line.split()[1] for line in shown.splitlines()[1:5]] == ["m0", "m1", "m2", "new"]
    assert "not rated: fewer than 20 votes (1 votes)" in shown
    assert "certain votes" in shown
    assert "effect of length" in shown
    assert out.read_text().startswith("rank,")


def test_the_files_hold_the_leaderboard_and_no_markup(tmp_path: Path) -> None:
    votes = [
        replace(one, model_a=one.model_a.replace("m0", "=<script>"), model_b=one.model_b.replace("m0", "=<script>"))
        for one in crowd(600)
    ]
    found = board(votes, tmp_path)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert rows[0]["model"] == "'=<script>"  # no formula of a spreadsheet
    assert float(rows[0]["low"]) < float(rows[0]["rating"]) < float(rows[0]["high"])
    picture = leaderboard_svg(found)
    ElementTree.fromstring(picture)
    assert "<script>" not in picture
    assert picture.count("<circle") == 3
    empty = leaderboard([], samples=0)
    assert empty.places == ()
    assert "No model" in leaderboard_svg(empty)
