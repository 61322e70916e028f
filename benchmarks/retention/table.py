"""The figures of the records as text: a table of each set, and which remedies keep enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measured import accuracy, markdown, paired_interval, percent, record_id
from benchmarks.retention.remedies import ABILITIES, NONE, REMEDIES, SETS
from lotune.evaluate.strength import strength_label

Records = Mapping[str, Mapping[str, Any]]
"""Records by id."""

GATED = ABILITIES[0]
"""The ability that decides the gate."""
MIN_KEPT = 0.95
"""Fraction of the base's score that a remedy is to keep at least."""
MOST_LOST = 1.0
"""Maximum loss of accuracy against the run without a remedy, in points."""
MOST_TIME = 1.8
"""Maximum time, as a multiple of the time of the run without a remedy."""
READING_METRICS = {"contest_f1": "F1", "contest_em": "EM"}
HEAD = (
    "remedy",
    "accuracy",
    "difference, points",
    *(f"{GATED} kept, {title}" for title in READING_METRICS.values()),
    *(f"{ability} kept" for ability in ABILITIES[1:]),
    "KL, test prompts",
    "KL, replay rows",
    "time",
)


@dataclass(frozen=True)
class Outcome:
    """The record of a remedy on a set, and that of the run without a remedy."""

    record: Mapping[str, Any]
    none: Mapping[str, Any]

    @property
    def difference(self) -> float:
        """Accuracy minus that of the run without a remedy, in points."""
        after, before = (accuracy(record["verdicts"]) or 0.0 for record in (self.record, self.none))
        return 100 * (after - before)

    @property
    def time(self) -> float:
        """Seconds as a multiple of those of the run without a remedy."""
        return float(self.record["seconds"] / self.none["seconds"])

    def smallest(self, ability: str) -> tuple[float | None, Any]:
        """Return the smallest retained fraction of an ability's metrics and its interval; None if one has none."""
        figures = list(self.record["kept"].get(ability, {}).values())
        if not figures or any(value is None for value, _ in figures):
            return None, None
        value, interval = min(figures, key=lambda figure: figure[0])
        return value, interval

    def keeps(self, ability: str) -> bool:
        """Return whether an ability is kept; an ability that was not measured is not."""
        value, _ = self.smallest(ability)
        return value is not None and value >= MIN_KEPT - 1e-12

    @property
    def is_worth_it(self) -> bool:
        """Whether reading is kept, at little cost on the task and in time."""
        return self.keeps(GATED) and self.difference >= -MOST_LOST - 1e-9 and self.time <= MOST_TIME

    @property
    def keeps_all(self) -> bool:
        """Whether each ability is kept."""
        return all(map(self.keeps, ABILITIES))


def outcomes(set_name: str, records: Records) -> dict[str, Outcome]:
    """Return the outcomes on a set by remedy; none before the run without a remedy is measured."""
    none = records.get(record_id(set_name, NONE))
    found = {name: records.get(record_id(set_name, name)) for name in REMEDIES}
    return {name: Outcome(record, none) for name, record in found.items() if record is not None and none is not None}


def table(set_name: str, records: Records) -> str:
    """Return the table of a set with a row for each remedy and dashes for what has not been measured."""
    known = outcomes(set_name, records)
    rows = [[remedy.title, *_cells(known.get(name))] for name, remedy in REMEDIES.items()]
    return markdown(HEAD, rows)


def _cells(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return ["–"] * (len(HEAD) - 1)
    reading, divergence = outcome.record["kept"].get(GATED, {}), outcome.record["divergence"]
    return [
        percent(accuracy(outcome.record["verdicts"])),
        "–" if outcome.record is outcome.none else _difference(outcome),
        *(_kept(*reading.get(metric, (None, None))) for metric in READING_METRICS),
        *(_kept(*outcome.smallest(ability)) for ability in ABILITIES[1:]),
        *(f"{divergence[rows][0]:.2g}" if rows in divergence else "–" for rows in ("test prompts", "replay rows")),
        f"{outcome.time:.2f}×",
    ]


def _difference(outcome: Outcome) -> str:
    interval = paired_interval(outcome.none["verdicts"], outcome.record["verdicts"])
    limits = "" if interval is None else f" [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return f"{outcome.difference:+.1f}{limits}"


def _kept(value: float | None, interval: Sequence[float] | None) -> str:
    """Return a retained fraction with its interval.

    >>> _kept(0.5, (0.4, 0.6)), _kept(1.0, None), _kept(None, None)
    ('50.0 % [40, 60]', '100.0 %', '–')
    """
    limits = "" if interval is None else f" [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
    return percent(value) + limits


def further_steps(set_name: str, records: Records) -> list[str]:
    """Return what the remedies after a tuning did on a set, in a line each: a repair, a strength, or nothing."""
    known = outcomes(set_name, records)
    return [
        f"{REMEDIES[name].title}: {_after_tuning(outcome.record)}."
        for name, outcome in known.items()
        if name.startswith(("repair", "strength"))
    ]


def _after_tuning(record: Mapping[str, Any]) -> str:
    """Return what followed a tuning.

    >>> _after_tuning({"repair": None, "strength": [0.7]}), _after_tuning({"repair": None, "strength": [1.0]})
    ('the strength 0.7 was chosen', 'full strength was kept')
    >>> _after_tuning({"repair": None, "strength": None})
    'nothing was repaired, as a checkpoint passed the gate on the validation rows'
    """
    repair, strengths = record["repair"], record["strength"]
    if strengths is not None:
        label = strength_label(strengths)
        return "full strength was kept" if label == "1" else f"the strength {label} was chosen"
    if repair is None:
        return "nothing was repaired, as a checkpoint passed the gate on the validation rows"
    return f"{repair['steps']:,} further steps with {repair['replay_rows']:,} replay rows, from {repair['start']}"


def verdict_lines(names: Sequence[str], records: Records) -> list[str]:
    """Return lines on how much is kept without a remedy, and which remedies keep enough on which sets."""
    known = {name: found for name in names if (found := outcomes(name, records))}
    worth_it = {name: [remedy for remedy, one in found.items() if one.is_worth_it] for name, found in known.items()}
    keep_all = {name: [remedy for remedy, one in found.items() if one.keeps_all] for name, found in known.items()}
    enough = f"at least {100 * MIN_KEPT:.0f} % of"
    lines = [
        f"Without a remedy, {GATED} keeps {_without(known)}.",
        f"Remedies that keep {enough} {GATED}, lose at most {MOST_LOST:g} point on the task and take at most "
        f"{MOST_TIME:g} times the time: {_reached(worth_it)}.",
        f"Remedies that keep {enough} each ability ({', '.join(ABILITIES)}), whatever they cost: {_reached(keep_all)}.",
    ]
    return lines if known else []


def _without(known: Mapping[str, Mapping[str, Outcome]]) -> str:
    return ", ".join(f"{percent(found[NONE].smallest(GATED)[0])} on {name}" for name, found in known.items())


def _reached(reached: Mapping[str, Sequence[str]]) -> str:
    """Return the remedies with the sets on which they reach a goal, from the remedies by set.

    >>> _reached({"demo": ["strength", "replay-own"], "orders": ["replay-own"]})
    'replay, own rows (every set); strength (demo)'
    >>> _reached({"demo": ["none"]})
    'none'
    """
    found = []
    for name in REMEDIES:
        sets = [set_name for set_name, names in reached.items() if name in names]
        if sets and name != NONE:
            where = "every set" if len(sets) == len(reached) else ", ".join(sets)
            found.append((-len(sets), f"{REMEDIES[name].title} ({where})"))
    return "; ".join(text for _, text in sorted(found, key=lambda one: one[0])) or "none"


def missing(names: Sequence[str], records: Records) -> list[str]:
    """Return the ids of the records that do not exist yet."""
    ids = [record_id(name, remedy) for name in names for remedy in REMEDIES]
    return [id for id in ids if id not in records]


def print_tables(names: Sequence[str], records: Records) -> None:
    """Print the tables of the sets, and which remedies keep enough."""
    for name in names:
        print(f"{name}. {SETS[name].about}\n\n{table(name, records)}")
    print(*verdict_lines(names, records), sep="\n")
