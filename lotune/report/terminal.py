"""Print a scorecard in a terminal of 80 columns: the verdict in one sentence, then tables, with percentages.

Only the intervals that a verdict depends on are shown; the report has all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from lotune.evaluate.scorecard import Check, Scorecard, Target
from lotune.evaluate.statistics import Interval
from lotune.report.languages import Language, translated
from lotune.text_display import show_control_characters

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show_scorecard(card: Scorecard, console: Console, language: Language = "en") -> None:
    """Print a scorecard: verdict, target, kinds, retention, parameters, score, checkpoints and checks."""
    # Importing rich at the top would slow down every command that only formats figures with this module.
    from rich.rule import Rule
    from rich.text import Text

    def told(text: str, style: str = "") -> Text:
        return Text(show_control_characters(translated(text, language)), style=style)

    console.print(Rule(translated("scorecard", language), style="dim"))
    console.print(told(verdict_sentence(card), f"bold {'green' if card.valid else 'red'}"))
    for reason in card.reasons:
        console.print(Text("  - "), told(reason), sep="")
    for rows in (_figures(card), _kinds(card.target), _retention(card), _checkpoints(card)):
        if rows is not None:
            console.print(_table(rows, language))
    for line in _closing_lines(card):
        console.print(told(line))


def verdict_sentence(card: Scorecard) -> str:
    """Return a sentence with validity, target metric and fraction of trained parameters, as plain text."""
    target = card.target
    gain = f"{target.task} {format_metric(target.base_value, target)} -> {format_metric(target.value, target)}"
    trained = f"{percent(card.parameters.ratio, 3)} of the parameters trained"
    return f"{'VALID' if card.valid else 'NOT VALID'}: {gain} with {trained}."


def format_metric(value: float, target: Target) -> str:
    """Return a value of the target's metric as text: percent for an accuracy, points for a mean of scores, or bits."""
    if target.is_mean:
        return f"{value:.{_digits(target)}f}"
    return percent(value)


def _digits(target: Target) -> int:
    """Return the digits after the point of a mean: scores are 0 to 100, bits per byte mostly below 3."""
    return 2 if target.in_points else 3


def metric_label(target: Target) -> str:
    """Return the name of the target's metric, with its direction where a lower value is better."""
    return f"{target.metric} (lower is better)" if target.lower_is_better else target.metric


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as a percentage.

    >>> percent(0.4321), percent(0.00679028, 3)
    ('43.2 %', '0.679 %')
    """
    return f"{100 * fraction:.{digits}f} %"


Rows: TypeAlias = "list[tuple[str, ...]]"
"""The rows of a table as texts, the first one with the names of the columns."""


def _figures(card: Scorecard) -> Rows:
    target, parameters = card.target, card.parameters
    table: Rows = [("figure", "base", "tuned", "95 % interval")]
    rows = f"{metric_label(target)}, {target.n} rows" + (f", scorer {target.scorer}" if target.scorer else "")
    _add(
        table,
        f"{target.task}: {rows}",
        format_metric(target.base_value, target),
        format_metric(target.value, target),
        format_interval(target.interval, target),
    )
    if (majority := target.majority) is not None:
        always = f"always {majority.answer!r}, the commonest in training"
        _add(table, always, "-", percent(majority.value), format_interval(majority.interval, target))
    if target.chance is not None:
        _add(table, "chance", "-", percent(target.chance), "-")
    for name, result in target.beside.items():
        base, tuned = (f"{value:.2f}" if value is not None else "-" for value in (result.base_value, result.value))
        _add(table, f"{target.task}: {name}, beside it", base, tuned, format_limits(result.interval, ".2f"))
    total = f"{parameters.total:,} ({parameters.convention})"
    _add(table, "parameters", total, f"{parameters.trainable:,}", f"ratio {percent(parameters.ratio, 4)}")
    return table


def _kinds(target: Target) -> Rows | None:
    # A single kind would repeat the figures of the target.
    if len(target.by_category) < 2:
        return None
    table: Rows = [("kind", "rows", "base", "tuned", "95 % interval")]
    for name, kind in target.by_category.items():
        if kind.value is None or kind.base_value is None:
            _add(table, name, f"0 (+{kind.unjudgeable} unjudgeable)", "-", "-", "-")
            continue
        rows = f"{kind.n}" + (f" (+{kind.unjudgeable} unjudgeable)" if kind.unjudgeable else "")
        figures = (
            format_metric(kind.base_value, target),
            format_metric(kind.value, target),
            format_interval(kind.interval, target),
        )
        _add(table, name, rows, *figures)
    return table


def _retention(card: Scorecard) -> Rows | None:
    if not card.retention:
        return None
    table: Rows = [("retained", "base", "tuned", "kept", "95 % interval", "gate")]
    for line in card.retention:
        retained = "not measurable" if line.retained is None else percent(line.retained)
        interval = "-" if line.retained is None else format_percent_interval(line.retained_interval)
        result = f"{'passed' if line.passed else 'failed'}, {percent(line.threshold, 0)}"
        figures = f"{line.base:.2f}", f"{line.tuned:.2f}", retained, interval
        _add(table, f"{line.task}: {line.metric}", *figures, result if line.is_gated else "reported")
    return table


def _checkpoints(card: Scorecard) -> Rows | None:
    # A single checkpoint is the chosen one, which the other tables show.
    if len(card.checkpoints) < 2:
        return None
    table: Rows = [("checkpoint", "validation", "loss", "test, 95 % interval", "score")]
    for point in card.checkpoints:
        loss = "-" if point.validation_loss is None else f"{point.validation_loss:.4f}"
        validation = "-" if point.validation_value is None else format_metric(point.validation_value, card.target)
        test = "-" if point.value is None else format_metric_with_interval(point.value, point.interval, card.target)
        score = "-" if point.score is None else f"{point.score:.4f}"
        chosen = " (chosen)" if point.name == card.chosen_checkpoint else ""
        _add(table, point.name + chosen, validation, loss, test, score)
    return table


def _closing_lines(card: Scorecard) -> list[str]:
    """Return the lines below the tables as plain text."""
    target = card.target
    lines = [
        f"better than the base: {target.gained} rows gained, {target.lost} lost, one-sided p = {target.p_value:.2g}"
    ]
    if (majority := target.majority) is not None:
        lines.append(f"better than always {majority.answer!r}: one-sided p = {majority.p_value:.2g}")
    if card.score is not None:
        # Published scores come from another base and test, so the line says what the rank compares.
        rank = ""
        if card.score.rank is not None:
            rank = (
                f", place {card.score.rank} among the {card.score.published} published rows (of another base and test)"
            )
        lines.append(f"score ({card.score.rule}): {card.score.value:.4f}{rank}")
    if card.best_on_test is not None:
        rule = card.best_on_test
        score = "" if rule.score is None else f", score {rule.score:.4f}"
        best = f"{rule.checkpoint} {format_metric(rule.value, target)}{score}"
        lines.append(f"by the contest's rule, best of {len(card.checkpoints)} on the test: {best}")
    if target.unjudgeable:
        lines.append(f"rows left out because their reference cannot be judged: {target.unjudgeable}")
    checks = [f"{check.name} {_shown_result(check)}" + _detail(check.detail) for check in card.checks]
    claims = [f"{claim.name} {_shown_result(claim)}" + _detail(claim.detail) for claim in card.claims]
    lines += [f"check: {check}" for check in checks] + [f"claim: {claim}" for claim in claims]
    lines += [f"note: {note}" for note in card.notes]
    return lines + ([card.learning] if card.learning else []) + _next_step_lines(card)


def _next_step_lines(card: Scorecard) -> list[str]:
    steps = [line for step in card.next_steps for line in (f"  {step.command}", f"    {step.reason}")]
    return ["to try next, the likeliest first:", *steps] if steps else []


def _shown_result(check: Check) -> str:
    # In capitals, as the one word to see in a log.
    return "FAILED" if check.passed is False else check.result


def _detail(detail: str) -> str:
    return f" ({detail})" if detail else ""


NOT_ESTIMABLE = "not estimable"
"""Text for an interval that the bootstrap cannot estimate because all rows are alike."""


def format_limits(interval: tuple[float, float] | None, form: str, unit: float = 1.0) -> str:
    """Return an interval as text, with its limits multiplied by `unit` and formatted by `form`.

    >>> format_limits(Interval(0.25, 0.5), ".1f", 100), format_limits(None, ".1f")
    ('25.0 to 50.0', 'not estimable')
    """
    if interval is None:
        return NOT_ESTIMABLE
    low, high = interval
    return f"{unit * low:{form}} to {unit * high:{form}}"


def format_interval(interval: Interval | None, target: Target) -> str:
    """Return an interval of the target's metric as text."""
    return format_limits(interval, f".{_digits(target)}f") if target.is_mean else format_percent_interval(interval)


def format_metric_with_interval(value: float, interval: Interval | None, target: Target) -> str:
    """Return a value of the target's metric with its interval as text."""
    return f"{format_metric(value, target)} ({format_interval(interval, target)})"


def format_points(points: float, interval: Interval | None) -> str:
    """Return a retained metric in points with its interval as text.

    >>> format_points(90.0, Interval(85.0, 94.25)), format_points(90.0, None)
    ('90.00 (85.0 to 94.2)', '90.00 (not estimable)')
    """
    return f"{points:.2f} ({format_limits(interval, '.1f')})"


def format_percent_interval(interval: Interval | None) -> str:
    """Return an interval of a fraction as text, in percent.

    >>> format_percent_interval(Interval(0.9, 1.0125)), format_percent_interval(None)
    ('90.0 to 101.2 %', 'not estimable')
    """
    return format_limits(interval, ".1f", 100) + ("" if interval is None else " %")


def _table(rows: Rows, language: Language) -> Table:
    """Return texts as a table. Names of kinds are the user's, and stay."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    head, *lines = rows
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(head):
        table.add_column(translated(column, language), justify="left" if number == 0 else "right")
    for name, *cells in lines:
        shown = [name if head[0] == "kind" else translated(name, language)]
        shown += [translated(cell, language) for cell in cells]
        # rich would read "[red]" or "[/]" in a label as markup; a Text object is shown as it is.
        table.add_row(*(Text(show_control_characters(cell)) for cell in shown))
    return table


def _add(table: Rows, *cells: str) -> None:
    table.append(cells)
