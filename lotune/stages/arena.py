"""`lotune arena`: blind battles between opponents of a file, and the files of votes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.arena.exchange import PRIVATE, Imported, export_lines, import_votes, redact
from lotune.arena.leaderboard import Filters, Leaderboard, leaderboard
from lotune.arena.opponents_file import read_opponents
from lotune.arena.picture import leaderboard_svg
from lotune.arena.store import VoteStore
from lotune.errors import DataError, SettingsError
from lotune.files import write_atomically
from lotune.recipe import Recipe
from lotune.stages.serve import ServeOptions, serve
from lotune.text_display import print_visible

if TYPE_CHECKING:
    from lotune.serve.limits import Limits

FORMS = (".json", ".csv", ".svg")


def arena(recipe: Recipe, opponents: Path, votes: Path, limits: Limits, options: ServeOptions) -> None:
    """Serve battles between the opponents of a file until the process is told to end; `votes` is the file of votes.

    Raises: as `read_opponents` and `serve`, before the models are loaded.
    """
    found = read_opponents(opponents)
    options = replace(options, ui=True, votes=votes, remote_keys=found.keys)
    serve(recipe, found.models, found.adapters, found.remotes, limits, options)


def export_votes(votes: Path, out: Path | None) -> int:
    """Write the votes as lines of JSON to a file, or to stdout, and return their number."""
    lines = list(export_lines(_store(votes)))
    if out is None:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
    else:
        write_atomically(out, b"".join(lines))
    return len(lines)


def import_file(votes: Path, file: Path) -> Imported:
    """Add the votes of a file to those of another, each once."""
    return import_votes(VoteStore(votes), file)


def redact_votes(votes: Path, battles: list[str], texts: bool, match: str | None) -> int:
    """Remove private data from votes, and return how many changed. Raises: SettingsError for a wrong pattern."""
    import re

    try:
        pattern = re.compile(match) if match else PRIVATE
    except re.error as error:
        raise SettingsError("--match", f"is no regular expression: {error}") from None
    return redact(_store(votes), battles, texts=texts, pattern=pattern)


def vote_leaderboard(votes: Path, filters: Filters, out: Path | None) -> Leaderboard:
    """Return the leaderboard of a file of votes; write it to a file, whose ending says how: .json, .csv or .svg."""
    if out is not None and out.suffix not in FORMS:
        raise SettingsError("--out", f"{out.name} ends with {out.suffix or 'nothing'}", " or ".join(FORMS))
    board = leaderboard(_store(votes).summaries(), filters)
    if out is not None:
        content: Any = {".json": board.to_json, ".csv": board.to_csv, ".svg": lambda: leaderboard_svg(board)}
        write_atomically(out, content[out.suffix]())
    print_visible("\n".join(_lines(board)))
    return board


def _lines(board: Leaderboard) -> list[str]:
    """Return the leaderboard for a terminal."""
    width = max([len(place.model) for place in board.places], default=0)
    lines = [f"{'rank':>7}  {'model':{width}}  {'rating':>6}  {'95 % interval':>15}  {'Elo':>6}  {'votes':>7}"]
    for place in board.places:
        if place.rating is None or place.interval is None:
            lines.append(f"{'–':>7}  {place.model:{width}}  not rated: {place.unrated} ({place.games} votes)")
            continue
        rank = f"{place.rank}" if place.rank == place.worst_rank else f"{place.rank}–{place.worst_rank}"
        interval = f"{place.interval[0]:.0f} … {place.interval[1]:.0f}"
        elo = f"{place.elo:.0f}" if place.elo is not None else ""
        lines.append(
            f"{rank:>7}  {place.model:{width}}  {place.rating:>6.0f}  {interval:>15}  {elo:>6}  {place.games:>7}"
        )
    lines.append(f"votes that count: {board.votes}")
    lines += [f"left out: {count} ({reason})" for reason, count in board.left_out.items()]
    if board.few_votes is not None:
        few = board.few_votes
        lines.append(f"without {few['votes']} certain votes ({few['fraction']:.2%}), {few['model']} would be first")
    for name, (effect, low, high) in board.effects.items():
        lines.append(f"effect of {name}: {effect:+.0f} points for one standard deviation ({low:+.0f} to {high:+.0f})")
    return lines


def _store(votes: Path) -> VoteStore:
    if not votes.is_file():
        raise DataError(str(votes), "does not exist", "a file of votes", "name it with --votes")
    return VoteStore(votes)
