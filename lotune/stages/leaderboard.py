"""`lotune leaderboard`: rank finished runs and bundles, and check the formula of published rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.contest.answer_check import judged_answers
from lotune.contest.leaderboard import Entry, Place, differences, ranked, read_published
from lotune.contest.leaderboard_page import Leaderboard, render_leaderboard
from lotune.errors import RunError, SettingsError
from lotune.evaluate.predict import read_predictions
from lotune.evaluate.scorecard import Scorecard, read_scorecard
from lotune.evaluate.statistics import wilson
from lotune.files import write_atomically
from lotune.recipe import RunOptions
from lotune.report.terminal import format_limits, percent
from lotune.stages.check_bundle import bundle_checks, judged_rows, opened_bundle
from lotune.stages.compare import predictions_file
from lotune.stages.output_files import refuse_overwriting_inputs
from lotune.text_display import print_visible, show_control_characters

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_DIFFERENCES = 20
"""Most differences to print; --json and the page have all."""


def leaderboard(
    things: Sequence[Path], published: Path | None, rule: str, html: Path | None, options: RunOptions
) -> dict[str, Any]:
    """Return the ranking of runs and bundles and the published rows; write it as a page to `html`.

    A bundle is checked first: one of whose claims is false has no rank.
    Raises: RunError for a folder without a scorecard; HostileArchiveError for a bundle that must not be unpacked.
    """
    if not things and published is None:
        raise SettingsError("leaderboard", "nothing to rank", "folders of runs, bundles, or --published FILE")
    refuse_overwriting_inputs(html, *things, published, option="--html")
    places = ranked(_with_distinct_teams([_entry(path) for path in things]))
    rule = places[0].entry.rule if places else rule
    rows = () if published is None else tuple(read_published(published, rule))
    board = Leaderboard(tuple(places), tuple(differences(places)), rows, rule)
    if html is not None:
        write_atomically(html, render_leaderboard(board))
        print_status(f"leaderboard: {html}")
    if not options.json:
        _show(board)
    return {
        "rule": rule, "ranking": [_record(place) for place in places],
        "differences": list(board.differences), "published": list(rows),
    }  # fmt: skip


def _record(place: Place) -> dict[str, Any]:
    entry = place.entry
    return {
        "rank": place.rank, "prize": place.prize, "team": entry.team, "link": entry.web_address,
        "accuracy": entry.accuracy, "interval": entry.interval, "ratio": entry.ratio, "score": entry.score,
        "score_interval": entry.score_interval, "valid": not entry.reasons, "reasons": entry.reasons,
        "on_front": place.on_front,
    }  # fmt: skip


def _entry(path: Path) -> Entry:
    return _run_entry(path) if path.is_dir() else _bundle_entry(path)


def _run_entry(folder: Path) -> Entry:
    if not (folder / "scorecard.json").is_file():
        raise RunError(str(folder), "has no scorecard.json", "the folder of a finished run, or a bundle")
    card = read_scorecard(folder / "scorecard.json")
    answers = predictions_file(folder)
    predictions = tuple(read_predictions(answers)) if answers.is_file() else ()
    return replace(_card_entry(folder.resolve().name, None, card, str(folder)), predictions=predictions)


def _card_entry(team: str, link: str | None, card: Scorecard, where: str) -> Entry:
    if card.score is None or card.target.is_mean:
        found = f"is ranked by {card.target.metric}, which is no accuracy"
        raise RunError(where, found, "a run with a score of the contest")
    return Entry(
        team, link, card.target.value, card.target.interval, card.parameters.ratio, card.score.rule,
        () if card.valid else card.reasons or ("not valid",),
    )  # fmt: skip


def _bundle_entry(path: Path) -> Entry:
    with opened_bundle(path) as bundle:
        failed = [check.name for check in bundle_checks(bundle) if check.passed is False]
        claims, manifest = bundle.claims, bundle.manifest
        reasons = [] if claims.valid else list(claims.reasons) or ["not valid"]
        reasons += [f"checks failed: {', '.join(failed)}"] if failed else []
        if claims.rule is None:
            raise RunError(str(path), f"is ranked by {claims.metric}, which has no score", "a score of the contest")
        # A bundle whose checks fail has no rank, so its answers are not needed.
        answers = () if failed else tuple(judged_answers(bundle, judged_rows(bundle)[0], claims.chosen_checkpoint))
        right = round(claims.value * claims.n)
        interval = wilson(right, claims.n) if 0 <= right <= claims.n else None
        return Entry(
            manifest.team, manifest.link, claims.value, interval, claims.ratio, claims.rule, tuple(reasons), answers
        )


def _with_distinct_teams(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with a number behind the names of teams that several of them have."""
    counts, seen = Counter(entry.team for entry in entries), Counter[str]()
    named = []
    for entry in entries:
        seen[entry.team] += 1
        name = f"{entry.team} ({seen[entry.team]})" if counts[entry.team] > 1 else entry.team
        named.append(replace(entry, team=name))
    return named


def _show(board: Leaderboard) -> None:
    from rich.console import Console

    console = Console()
    if board.places:
        console.print(_ranking(board.places))
    for place in board.places:
        if place.entry.reasons:
            print_visible(f"not valid: {place.entry.team}: {'; '.join(place.entry.reasons)}")
        if place.entry.web_address:
            print_visible(f"link: {place.entry.team}: {place.entry.web_address}")
    for one in board.differences[:SHOWN_DIFFERENCES]:
        verdict = "beyond chance" if one.beyond_chance else "not beyond chance"
        print_visible(f"{one.better} over {one.worse}: {verdict} ({one.method})")
    if len(board.differences) > SHOWN_DIFFERENCES:
        print_visible(f"and {len(board.differences) - SHOWN_DIFFERENCES} more differences: --json lists them")
    if front := [place.entry.team for place in board.places if place.on_front]:
        print_visible(f"on the Pareto front of accuracy and ratio: {', '.join(front)}")
    if board.published:
        console.print(_published(board))
        wrong = [one.team for one in board.published if not one.reproduced]
        print_visible(f"scores that {board.rule} does not give: {', '.join(wrong) or 'none'}")


def _ranking(places: Sequence[Place]) -> Table:
    table = _table("place", "team", "accuracy", "ratio", "score", "95 % interval")
    for place in places:
        entry = place.entry
        limits = "–" if entry.score_interval is None else format_limits(entry.score_interval, ".3f")
        figures = percent(entry.accuracy, 2), f"{entry.ratio:.6g}", f"{entry.score:.6f}", limits
        _add(table, _place(place.rank, place.prize), entry.team, *figures)
    return table


def _published(board: Leaderboard) -> Table:
    table = _table("place", "published", "accuracy", "ratio", "score", "by formula")
    for one in board.published:
        formula = "reproduced" if one.reproduced else f"{one.computed:.9f}"
        figures = percent(one.accuracy, 2), f"{one.ratio:.9g}", f"{one.score:.9f}"
        _add(table, _place(one.rank, one.prize), one.team, *figures, formula)
    return table


def _place(rank: int | None, prize: str) -> str:
    return "–" if rank is None else f"{rank} {prize}".strip()


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        # Only a team's name may be broken, so that no digit is lost in a narrow terminal.
        table.add_column(column, justify="left" if number == 1 else "right", no_wrap=number != 1)
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    # A Text, as rich would read brackets in a team's name as markup.
    table.add_row(*(Text(show_control_characters(cell)) for cell in cells))
