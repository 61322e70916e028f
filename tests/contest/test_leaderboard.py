"""Ranks, prizes, differences beyond chance, the Pareto front, and hostile names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

from lotune.contest.leaderboard import Entry, difference, differences, on_front, prize, ranked, read_published
from lotune.contest.leaderboard_page import Leaderboard, front_plot, render_leaderboard
from lotune.contest.scores import PUBLISHED, score
from lotune.errors import DataError
from lotune.evaluate.predict import Prediction
from lotune.evaluate.statistics import mcnemar, wilson
from lotune.tasks.task import Score

HOSTILE = '<script>alert(1)</script> "x" & [red]\u202e\x1b[31m'


def answers(*right: bool | None, reference: str = "2") -> tuple[Prediction, ...]:
    return tuple(
        Prediction(f"row:{number}", "?", "", Score("", reference, item), "") for number, item in enumerate(right)
    )


def entry(team: str, right: int, ratio: float = 0.001, n: int = 100, **more: Any) -> Entry:
    return Entry(team, more.pop("link", None), right / n, wilson(right, n), ratio, "phase1", **more)


def test_ranks_and_prizes() -> None:
    entries = [entry(f"team {number}", 90 - 10 * number) for number in range(7)]
    entries += [entry("tied", 60), entry("not valid", 99, reasons=("the gate",))]
    places = ranked(entries)
    assert [(place.entry.team, place.rank, place.prize) for place in places] == [
        ("team 0", 1, "gold"), ("team 1", 2, "silver"), ("team 2", 3, "silver"), ("team 3", 4, "bronze"),
        ("tied", 4, "bronze"), ("team 4", 6, "bronze"), ("team 5", 7, ""), ("team 6", 8, ""), ("not valid", None, ""),
    ]  # fmt: skip
    assert places[0].entry.score == score("phase1", 0.001, 0.9)
    low, high = places[0].entry.score_interval or (0, 0)
    assert low < places[0].entry.score < high
    assert prize(7) == ""


def test_scores_of_different_rules_are_not_ranked() -> None:
    with pytest.raises(DataError, match="one rule"):
        ranked([entry("a", 50), replace(entry("b", 50), rule="phase2")])


def test_differences_are_paired_on_the_same_rows() -> None:
    first = entry("a", 10, n=12, predictions=answers(*[True] * 10, False, None))
    second = entry("b", 2, n=12, predictions=answers(*[True] * 2, *[False] * 9, None))
    found = difference(second, first)
    expected = mcnemar([True] * 2 + [False] * 9, [True] * 10 + [False]).p_value
    assert (found.better, found.worse, found.beyond_chance) == ("a", "b", expected < 0.05)
    assert found.method == f"paired test on 11 rows, p = {expected:.2g}"
    assert found.beyond_chance


def test_other_rows_are_compared_by_their_intervals() -> None:
    first = entry("a", 90, predictions=answers(True, True))
    others = [
        (entry("b", 10), True, "apart"),
        (entry("b", 88), False, "overlap"),
        (entry("b", 10, predictions=answers(True, True, True)), True, "apart"),
        (entry("b", 10, predictions=answers(True, True, reference="3")), True, "apart"),
    ]
    for other, beyond, word in others:
        found = difference(first, other)
        assert (found.beyond_chance, found.method) == (beyond, f"intervals {word}, other rows")
    assert not difference(first, replace(others[0][0], interval=None)).beyond_chance


def test_results_that_are_not_valid_are_not_compared() -> None:
    places = ranked([entry("a", 90), entry("b", 50), entry("c", 70, reasons=("no",))])
    assert [(one.better, one.worse) for one in differences(places)] == [("a", "b")]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 100)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(figures: list[tuple[int, int]]) -> None:
    entries = [entry(f"{number}", right, ratio / 1000) for number, (right, ratio) in enumerate(figures)]
    front = [one for one in entries if on_front(one, entries)]
    assert front
    for one in entries:
        dominated = any(
            (other.accuracy, -other.ratio) != (one.accuracy, -one.ratio)
            and other.accuracy >= one.accuracy
            and other.ratio <= one.ratio
            for other in front
        )
        assert dominated == (one not in front)


def write_published(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_every_published_score_is_reproduced(tmp_path: Path) -> None:
    rows = [{"accuracy": 100 * one.accuracy, "ratio": one.ratio, "score": one.score} for one in PUBLISHED]
    published = read_published(write_published(tmp_path / "rows.json", rows), "phase1")
    assert len(published) == 20
    assert all(one.reproduced for one in published)
    assert [one.rank for one in published] == list(range(1, 21))
    assert [one.prize for one in published[:7]] == ["gold", "silver", "silver", "bronze", "bronze", "bronze", ""]
    assert not any(one.reproduced for one in read_published(tmp_path / "rows.json", "phase2"))


def test_a_score_that_the_formula_does_not_give_is_marked(tmp_path: Path) -> None:
    rows = [
        {"team": "right", "accuracy": 0.64, "ratio": 0.000424393, "score": 0.747872682},
        {"team": "near", "accuracy": 0.64, "ratio": 0.000424393, "score": 0.747872682 + 2e-8},
    ]
    file = write_published(tmp_path / "rows.json", rows)
    found = {one.team: one.reproduced for one in read_published(file, "phase1")}
    assert found == {"right": True, "near": False}
    shown = call("leaderboard", "--published", file).stdout
    assert "scores that phase1 does not give: near" in shown
    csv = tmp_path / "rows.csv"
    csv.write_text("team,accuracy,ratio,score\nright,64.00,.000424393,.747872682\n")
    assert read_published(csv, "phase1")[0].reproduced
    csv.write_text("team,accuracy,ratio,score\nright,64.00 %,0.0424393%,.747872682\n")
    assert read_published(csv, "phase1")[0].reproduced


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{}", "[1]", "{", '[{"accuracy": "x", "ratio": 0, "score": 0}]',
        '[{"accuracy": 101, "ratio": 0, "score": 0}]',
    ],
)  # fmt: skip
def test_published_rows_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    assert "rows.json" in call("leaderboard", "--published", path, status=2).stderr


def board(*entries: Entry) -> Leaderboard:
    places = ranked(entries)
    return Leaderboard(tuple(places), tuple(differences(places)), (), "phase1")


def test_hostile_names_and_links_are_shown_as_text() -> None:
    links = (
        "javascript:alert(2)",
        "data:text/html,x",
        'https://example.org/"onclick="alert(3)',
        "https://example.org/a",
    )
    page = render_leaderboard(
        board(*(entry(f"{HOSTILE}{number}", 90 - number, link=link) for number, link in enumerate(links)))
    )
    assert "<script" not in page
    assert "javascript:" not in page
    assert "data:text" not in page
    assert 'onclick="alert' not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert 'href="https://example.org/a"' in page
    assert page.count("<a href=") == 2
    assert "default-src 'none'" in page


@pytest.mark.parametrize("ratios", [(0.001,), (0.001, 0.001), (0.0001, 0.01), (0.0, 0.5)])
def test_the_picture_is_whole(ratios: tuple[float, ...]) -> None:
    entries = [entry(f"{HOSTILE}{number}", 90 - number, ratio) for number, ratio in enumerate(ratios)]
    picture = front_plot(board(*entries), 880)
    root = ET.fromstring(picture)
    shapes = [element for element in root.iter() if element.get("class") in ("chosen", "tuned")]
    assert len(shapes) >= len(ratios)
    assert front_plot(board(), 880) == ""


def test_runs_and_bundles(finished_run: Path, bundle: Path, five_checkpoints: Path, tmp_path: Path) -> None:
    page = tmp_path / "board.html"
    result = json.loads(call("leaderboard", finished_run, bundle, five_checkpoints, "--html", page, "--json").stdout)
    by_team = {one["team"]: one for one in result["ranking"]}
    assert set(by_team) == {finished_run.name, "The Team", five_checkpoints.name}
    assert all(one["reasons"] for one in by_team.values() if one["rank"] is None)
    # The same run twice: from its folder, and from its bundle, whose answers are judged again.
    for name in ("accuracy", "ratio", "score", "interval"):
        assert by_team["The Team"][name] == pytest.approx(by_team[five_checkpoints.name][name])
    assert "<table" in page.read_text(encoding="utf-8")
    shown = call("leaderboard", bundle).stdout
    assert "not valid: The Team: " in shown
    # On a phone a row is a list, in which each figure stands after the name of its column.
    assert page.read_text(encoding="utf-8").count("<td>") == 0


def test_what_cannot_be_ranked(tmp_path: Path) -> None:
    call("leaderboard", status=2)
    call("leaderboard", tmp_path, status=2)
    call("leaderboard", tmp_path / "none.zip", status=2)
    call("leaderboard", "--published", tmp_path / "none.csv", status=2)
