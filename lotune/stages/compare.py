"""`lotune compare`: two predictions files, or two finished runs, on the same items."""

from __future__ import annotations

from pathlib import Path

from lotune.errors import RunError
from lotune.evaluate.compare import ACCURACY, Comparison, compare_predictions
from lotune.evaluate.predict import read_predictions
from lotune.evaluate.scorecard import read_scorecard
from lotune.recipe import RunOptions
from lotune.report.terminal import limits_text
from lotune.text_display import print_visible

SHOWN = 10
"""Items on which the two differ that are shown to a person."""


def compare(a: Path, b: Path, score: str | None, options: RunOptions) -> Comparison:
    """What the items say of A and B; a folder is a run, whose chosen checkpoint stands for it.

    Without `score` they are compared by the metric that they were judged for, else by their verdicts.
    Raises: DataError as `compare_predictions`, so where the two were not asked and judged alike; RunError for a folder
    that is no finished run.
    """
    first, second = (read_predictions(predictions_file(path)) for path in (a, b))
    found = compare_predictions(first, second, (str(a), str(b)), score)
    if not options.json:
        _show(found)
    return found


def predictions_file(path: Path) -> Path:
    """The predictions that a path stands for: itself, or those of a run's chosen checkpoint on its task."""
    if not path.is_dir():
        return path
    card = path / "scorecard.json"
    if not card.is_file():
        raise RunError(str(path), "holds no scorecard.json", "a finished run, or a predictions file")
    found = read_scorecard(card)
    return path / "predictions" / found.target.task / f"{found.chosen_checkpoint}.jsonl"


def _show(found: Comparison) -> None:
    unit = 100 if found.score == ACCURACY else 1
    sign = " %" if unit == 100 else ""
    facts = found.facts
    scorer = f", judged by {facts.scorer}" if facts.scorer else ""
    print_visible(f"{facts.task}{scorer}; template {facts.template}; {facts.protocol}")
    for letter, side in (("A", found.a), ("B", found.b)):
        interval = limits_text(side.interval, ".1f", unit)
        print_visible(f"{letter}: {side.name}: {found.score} {unit * side.value:.1f}{sign} ({interval})")
    change = f"{unit * found.difference:+.1f}{sign} ({limits_text(found.interval, '+.1f', unit)})"
    print_visible(f"B - A: {change}, p = {found.p_value:.3g}, {found.n} items")
    print_visible(f"B is better on {found.b_better_on} items, A on {found.a_better_on}")
    print_visible(f"{found.verdict}{_how_many(found)}")
    if found.unmatched:
        print_visible(f"{found.unmatched} items that only one of the two has are left out")
    for one in found.differing[:SHOWN]:
        print_visible(
            f"  {one.id}: key {_short(one.key)}, A {_short(one.a)}, B {_short(one.b)}: {one.better} is better"
        )
    if len(found.differing) > SHOWN:
        print_visible(f"  and {len(found.differing) - SHOWN} more: --json lists them")


def _how_many(found: Comparison) -> str:
    if found.verdict != "these items cannot tell":
        return ""
    if found.required_sample_size is None:
        return ": there is no difference between the two figures"
    return f": a difference of this size would take some {found.required_sample_size:,} items"


def _short(text: str, most: int = 60) -> str:
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return repr(last if len(last) <= most else last[: most - 1] + "…")
