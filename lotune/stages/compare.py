"""`lotune compare`: compare two predictions files or finished runs on the same items."""

from __future__ import annotations

from pathlib import Path

from lotune.errors import RunError
from lotune.evaluate.compare import ACCURACY, Comparison, compare_predictions
from lotune.evaluate.predict import read_predictions
from lotune.evaluate.scorecard import read_scorecard
from lotune.recipe import RunOptions
from lotune.report.terminal import format_limits
from lotune.text_display import print_visible

SHOWN = 10
"""Number of differing items to print."""


def compare(a: Path, b: Path, score: str | None, options: RunOptions) -> Comparison:
    """Compare A and B; the folder of a run stands for its chosen checkpoint.

    Without `score`, they are compared by the metric of their task.
    Raises: DataError as `compare_predictions`; RunError for a folder that is not a finished run.
    """
    first, second = (read_predictions(predictions_file(path)) for path in (a, b))
    comparison = compare_predictions(first, second, (str(a), str(b)), score)
    if not options.json:
        _show(comparison)
    return comparison


def predictions_file(path: Path) -> Path:
    """Return the predictions file that a path stands for: itself, or that of a run's chosen checkpoint."""
    if not path.is_dir():
        return path
    card = path / "scorecard.json"
    if not card.is_file():
        raise RunError(str(path), "has no scorecard.json", "a finished run, or a predictions file")
    scorecard = read_scorecard(card)
    return path / "predictions" / scorecard.target.task / f"{scorecard.chosen_checkpoint}.jsonl"


def _show(comparison: Comparison) -> None:
    # An accuracy is a fraction and is printed as a percentage; other scores are points already.
    unit = 100 if comparison.score == ACCURACY else 1
    sign = " %" if unit == 100 else ""
    form = ".3f" if comparison.lower_is_better else ".1f"  # bits per byte are mostly below 3
    facts = comparison.facts
    scorer = f", judged by {facts.scorer}" if facts.scorer else ""
    print_visible(f"{facts.task}{scorer}; template {facts.template}; {facts.protocol}")
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        interval = format_limits(side.interval, form, unit)
        print_visible(f"{letter}: {side.name}: {comparison.score} {unit * side.value:{form}}{sign} ({interval})")
    change = f"{unit * comparison.difference:+{form}}{sign} ({format_limits(comparison.interval, f'+{form}', unit)})"
    print_visible(f"B - A: {change}, p = {comparison.p_value:.3g}, {comparison.n} items")
    print_visible(f"B is better on {comparison.b_better_on} items, A on {comparison.a_better_on}")
    print_visible(f"{comparison.verdict}{_sample_size_clause(comparison)}")
    if comparison.unmatched:
        print_visible(f"{comparison.unmatched} items are in one file only and were ignored")
    for item in comparison.differing[:SHOWN]:
        print_visible(
            f"  {item.id}: key {_short(item.key)}, A {_short(item.a)}, B {_short(item.b)}: {item.better} is better"
        )
    if len(comparison.differing) > SHOWN:
        print_visible(f"  and {len(comparison.differing) - SHOWN} more: --json lists them")


def _sample_size_clause(comparison: Comparison) -> str:
    if comparison.verdict != "these items cannot tell":
        return ""
    if comparison.required_sample_size is None:
        return ": there is no difference between the two"
    return f": a difference of this size would need about {comparison.required_sample_size:,} items"


def _short(text: str, max_length: int = 60) -> str:
    last = text.strip().splitlines()[-1] if text.strip() else ""  # the last line of a worked solution is its result
    return repr(last if len(last) <= max_length else last[: max_length - 1] + "…")
