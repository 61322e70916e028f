"""Rank the results of a contest: places and prizes, differences beyond chance, the Pareto front, published rows."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import orjson

from lotune.contest.names import is_web_address
from lotune.contest.scores import check_rule, score
from lotune.data.bounded import BYTE_ORDER_MARK
from lotune.errors import DataError
from lotune.evaluate.predict import Prediction
from lotune.evaluate.statistics import SIGNIFICANCE, Interval, mcnemar

PRIZES = ("gold", "silver", "silver", "bronze", "bronze", "bronze")
"""The contest's prizes by place."""
FIGURES = ("accuracy", "ratio", "score")
"""Columns of published rows."""
FORMULA_TOLERANCE = 1e-8
"""Largest difference of a published score from the formula, as they are published with nine digits."""


@dataclass(frozen=True)
class Entry:
    """A result; accuracy and ratio are 0 to 1, the interval (95 %) is that of the accuracy.

    `reasons` say why a result is not valid. `predictions` are the answers to the test rows, empty if unknown.
    """

    team: str
    link: str | None
    accuracy: float
    interval: Interval | None
    ratio: float
    rule: str
    reasons: tuple[str, ...] = ()
    predictions: tuple[Prediction, ...] = ()

    @property
    def score(self) -> float:
        """The contest's score."""
        return score(self.rule, self.ratio, self.accuracy)

    @property
    def score_interval(self) -> Interval | None:
        """The scores at the limits of the accuracy's interval; the ratio is exact."""
        if self.interval is None:
            return None
        return Interval(*(score(self.rule, self.ratio, limit) for limit in self.interval))

    @property
    def web_address(self) -> str | None:
        """The link, if it is an http or https address."""
        return self.link if self.link is not None and is_web_address(self.link) else None


@dataclass(frozen=True)
class Place:
    """An entry with its rank, None if it is not valid, and its prize, empty if it has none.

    `on_front` tells whether no valid entry has both a higher accuracy and a lower ratio.
    """

    entry: Entry
    rank: int | None
    prize: str
    on_front: bool


@dataclass(frozen=True)
class Difference:
    """Whether the accuracies of two entries differ beyond chance, and by which method that was decided."""

    better: str
    worse: str
    beyond_chance: bool
    method: str


@dataclass(frozen=True)
class PublishedScore:
    """A published row; `computed` is its score by the formula, and `reproduced` whether it is the published one."""

    team: str
    accuracy: float
    ratio: float
    score: float
    rank: int
    prize: str
    computed: float
    reproduced: bool


def ranked(entries: Sequence[Entry]) -> list[Place]:
    """Return the entries by their scores, the valid ones first; equal scores share a rank.

    Raises: DataError if their rules differ, so that their scores cannot be compared.
    """
    rules = {entry.rule for entry in entries}
    if len(rules) > 1:
        rules_text = ", ".join(f"{entry.team}: {entry.rule}" for entry in entries)
        raise DataError("leaderboard", f"scores by different rules ({rules_text})", "one rule")
    valid = [entry for entry in entries if not entry.reasons]
    places = []
    for entry in sorted(entries, key=lambda entry: (bool(entry.reasons), -entry.score, entry.team)):
        rank = None if entry.reasons else 1 + sum(other.score > entry.score for other in valid)
        places.append(Place(entry, rank, prize(rank), not entry.reasons and on_front(entry, valid)))
    return places


def prize(rank: int | None) -> str:
    """Return the prize of a rank: one gold, two silver, three bronze.

    >>> [prize(rank) for rank in (1, 2, 3, 4, 6, 7, None)]
    ['gold', 'silver', 'silver', 'bronze', 'bronze', '', '']
    """
    return PRIZES[rank - 1] if rank is not None and rank <= len(PRIZES) else ""


def on_front(entry: Entry, others: Sequence[Entry]) -> bool:
    """Return whether no other entry is at least as good in accuracy and ratio, and better in one of them."""
    return not any(
        other.accuracy >= entry.accuracy
        and other.ratio <= entry.ratio
        and (other.accuracy > entry.accuracy or other.ratio < entry.ratio)
        for other in others
    )


def differences(places: Sequence[Place]) -> list[Difference]:
    """Return, for each two valid entries, whether their accuracies differ beyond chance."""
    valid = [place.entry for place in places if place.rank is not None]
    return [difference(a, b) for index, a in enumerate(valid) for b in valid[index + 1 :]]


def difference(a: Entry, b: Entry) -> Difference:
    """Return whether the accuracies of two entries differ beyond chance.

    McNemar's exact test decides if both have answered the same rows, otherwise the intervals: they do not overlap.
    """
    better, worse = (a, b) if a.accuracy >= b.accuracy else (b, a)
    pairs = _same_rows(better, worse)
    if pairs:
        p_value = mcnemar([first for _, first in pairs], [second for second, _ in pairs]).p_value
        method = f"paired test on {len(pairs)} rows, p = {p_value:.2g}"
        return Difference(better.team, worse.team, p_value < SIGNIFICANCE, method)
    if better.interval is None or worse.interval is None:
        return Difference(better.team, worse.team, False, "unknown: no interval")
    apart = better.interval.low > worse.interval.high
    return Difference(better.team, worse.team, apart, f"intervals {'apart' if apart else 'overlap'}, other rows")


def _same_rows(better: Entry, worse: Entry) -> list[tuple[bool, bool]]:
    """Return the verdicts of both entries row by row, empty unless they have answered the same rows."""
    first, second = ({row.example_id: row.score for row in entry.predictions} for entry in (better, worse))
    if not first or first.keys() != second.keys():
        return []
    if any(first[id].reference != second[id].reference for id in first):
        return []
    verdicts = [(first[id].correct, second[id].correct) for id in first]
    return [(a, b) for a, b in verdicts if a is not None and b is not None]


def read_published(path: Path, rule: str) -> list[PublishedScore]:
    """Return the published rows in a csv or json file, the best first, each checked by a rule's formula.

    Rows have accuracy, ratio and score, and may have a team. Accuracies are percent if one of them is above 1.
    Raises: DataError, with the row, if one of them is no number.
    """
    check_rule(rule, "--rule")
    rows = _rows(path)
    figures = [
        {name: _figure(path, index, row, name) for name in ("accuracy", "ratio", "score")} for index, row in rows
    ]
    percent = any(one["accuracy"] > 1 for one in figures)
    published = []
    for (index, row), one in zip(rows, figures, strict=True):
        accuracy = one["accuracy"] / 100 if percent else one["accuracy"]
        computed = score(rule, one["ratio"], accuracy)
        rank = 1 + sum(other["score"] > one["score"] for other in figures)
        published.append(
            PublishedScore(
                str(row.get("team") or f"row {index}"), accuracy, one["ratio"], one["score"], rank, prize(rank),
                computed, abs(computed - one["score"]) <= FORMULA_TOLERANCE,
            )
        )  # fmt: skip
    return sorted(published, key=lambda one: one.rank)


def _rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
        rows = orjson.loads(content) if path.suffix == ".json" else list(csv.DictReader(StringIO(content.decode())))
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", _PUBLISHED) from None
    except (ValueError, csv.Error) as error:
        raise DataError(str(path), f"cannot be read: {error}", _PUBLISHED) from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(str(path), "holds no rows", _PUBLISHED)
    return list(enumerate(rows, 1))


_PUBLISHED = "csv with a header, or a json array: accuracy, ratio, score, and perhaps team"


def _figure(path: Path, index: int, row: Mapping[str, Any], name: str) -> float:
    try:
        text = str(row[name]).strip()
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except (KeyError, ValueError):
        value = float("nan")
    if not 0 <= value <= (100 if name == "accuracy" else 1) and not (name == "score" and -3 <= value <= 1):
        raise DataError(f"{path}, row {index}", f"{name} is {row.get(name)!r}", "a number: accuracy, ratio, score")
    return value
