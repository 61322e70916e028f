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

if TYPE_CHECKING:
    from lotune.serve.limits import Limits

FORMS = (".json", ".csv", ".svg")


def arena(recipe: Recipe, opponents: Path, votes: Path, limits: Limits, options: ServeOptions) -> None:
    """Serve battles between the opponents of a file until the process is told to end; `votes` is the file of votes.

    Raises: as `read_opponents`, `VoteStore` and `serve`.
    """
    found = read_opponents(opponents)
    VoteStore(votes)  # refused before the models are loaded
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
    return board


def _store(votes: Path) -> VoteStore:
    if not votes.is_file():
        raise DataError(str(votes), "does not exist", "a file of votes", "name it with --votes")
    return VoteStore(votes)
