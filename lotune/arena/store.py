"""Votes in an SQLite file: each is written, and safe on the disk, before it is confirmed.

Several processes may use a file at once, as it is in WAL mode. A battle has one vote: its id is the primary key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from lotune.errors import DataError

Verdict = Literal["model_a", "model_b", "tie", "both_bad"]
VERDICTS: tuple[Verdict, ...] = ("model_a", "model_b", "tie", "both_bad")
SCORES: Mapping[str, float] = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""Score of model A by verdict."""
SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0
PEOPLE = "people"
"""The judge of votes that people gave."""


@dataclass(frozen=True)
class Vote:
    """One vote on a battle between model A, shown at the left, and model B.

    `turns` has a prompt and the answers of A and B for each turn. `digest_a` and `digest_b` name the weights of local
    models, empty for those of other servers; `template_a` and `template_b` their prompt template. `settings` has the
    sampling. `time` is seconds since 1970; `named` says that an answer gave a model's name away. `judge` is "people",
    or the name of a model or task that judged. `style_a` and `style_b` have the counts of `style_counts`, which remain
    when the texts are removed.
    """

    battle: str
    time: float
    visitor: str
    model_a: str
    model_b: str
    verdict: Verdict
    turns: tuple[tuple[str, str, str], ...]
    digest_a: str = ""
    digest_b: str = ""
    template_a: str = ""
    template_b: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    language: str = "other"
    category: str = "other"
    named: bool = False
    judge: str = PEOPLE
    style_a: tuple[int, ...] = ()
    style_b: tuple[int, ...] = ()


class Summary(NamedTuple):
    """What ratings need of a vote: `prompt` is the first one; the styles are JSON, which few readers need."""

    battle: str
    visitor: str
    model_a: str
    model_b: str
    verdict: Verdict
    language: str
    category: str
    named: int
    judge: str
    prompt: str
    style_a: str
    style_b: str


COLUMNS = tuple(one.name for one in fields(Vote))
JSON_COLUMNS = ("turns", "settings", "style_a", "style_b")
_TYPES = {"time": "REAL NOT NULL", "named": "INTEGER NOT NULL"}


class VoteStore:
    """The votes of one file, which is made if it is missing.

    Raises: DataError for a file that is no file of votes, or one of a later version.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._connection() as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if version > SCHEMA_VERSION or (tables and "votes" not in tables):
                found = f"has version {version} of the votes" if version > SCHEMA_VERSION else "has other tables"
                raise DataError(str(file), found, "a file of votes", "name another file")
            columns = ", ".join(f"{name} {_TYPES.get(name, 'TEXT NOT NULL')}" for name in COLUMNS[1:])
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"CREATE TABLE IF NOT EXISTS votes (battle TEXT PRIMARY KEY, {columns}) WITHOUT ROWID")
            connection.execute("CREATE INDEX IF NOT EXISTS votes_by_time ON votes (time)")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def add(self, vote: Vote) -> bool:
        """Write a vote; return False, and change nothing, if its battle has one. The vote is on the disk afterwards."""
        return self.add_all([vote]) == 1

    def add_all(self, votes: Iterable[Vote]) -> int:
        """Write votes of battles that have none, all or none of them, and return their number."""
        with self._connection() as connection:
            return _write(connection, "INSERT OR IGNORE", votes)

    def votes(self) -> Iterator[Vote]:
        """Yield the votes in the order in which they were given."""
        with self._connection() as connection:
            for row in connection.execute(f"SELECT {', '.join(COLUMNS)} FROM votes ORDER BY time, battle"):
                yield _vote(row)

    def summaries(self) -> list[Summary]:
        """Return what ratings need of each vote, in the order in which they were given."""
        words = (
            "SELECT battle, visitor, model_a, model_b, verdict, language, category, named, judge, "
            "COALESCE(json_extract(turns, '$[0][0]'), battle), style_a, style_b FROM votes ORDER BY time, battle"
        )
        with self._connection() as connection:
            return [Summary(*row) for row in connection.execute(words)]

    def count(self) -> int:
        """Return the number of votes."""
        with self._connection() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM votes").fetchone()[0])

    def replace(self, votes: Iterable[Vote]) -> int:
        """Write votes in place of those of the same battles, and return their number."""
        votes = list(votes)
        with self._connection() as connection:
            connection.execute("PRAGMA secure_delete = ON")  # what is removed must not remain in the file
            _write(connection, "REPLACE", votes)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
        return len(votes)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.file, timeout=BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise DataError(str(self.file), f"cannot be opened: {error}", "a file in a folder that exists") from None
        with closing(connection):
            try:
                connection.execute("PRAGMA synchronous = FULL")
            except sqlite3.DatabaseError as error:
                raise DataError(str(self.file), f"is no file of votes: {error}", "one that lotune wrote") from None
            yield connection


def _write(connection: sqlite3.Connection, verb: str, votes: Iterable[Vote]) -> int:
    """Write votes in one transaction, which a connection that closes before its end rolls back; return the changes."""
    before = connection.total_changes
    connection.execute("BEGIN IMMEDIATE")
    words = f"{verb} INTO votes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
    connection.executemany(words, map(_row, votes))
    connection.execute("COMMIT")
    return connection.total_changes - before


def _row(vote: Vote) -> tuple[Any, ...]:
    values = asdict(vote)
    for name in JSON_COLUMNS:
        values[name] = orjson.dumps(values[name]).decode()
    return tuple(int(value) if isinstance(value, bool) else value for value in values.values())


def _vote(row: tuple[Any, ...]) -> Vote:
    values = dict(zip(COLUMNS, row, strict=True))
    for name in JSON_COLUMNS:
        values[name] = orjson.loads(values[name])
    values["turns"] = tuple(map(tuple, values["turns"]))
    values["style_a"], values["style_b"] = tuple(values["style_a"]), tuple(values["style_b"])
    return Vote(**{**values, "named": bool(values["named"])})
