"""Sections of a report: the verdict, and texts and tables of the results.

HTML page and Markdown have the same texts. They are plain here: each renderer escapes them in its own way.
`provenance.py` has the sections about training, data, settings and environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import RetentionMetric, min_retained
from lotune.evaluate.scorecard import CategoryResult, Checkpoint, Scorecard, Target
from lotune.evaluate.statistics import SIGNIFICANCE, Interval, wilson
from lotune.report.languages import Language, translated
from lotune.report.plots import BINS, score_counts
from lotune.report.report_data import Examples
from lotune.report.terminal import (
    format_interval,
    format_metric,
    format_metric_with_interval,
    format_percent_interval,
    format_points,
    metric_label,
    percent,
)
from lotune.tasks.metrics import BITS_PER_BYTE

SECTIONS = {
    "kinds": "Accuracy by kind",
    "kept": "Retention",
    "training": "Training",
    "checkpoints": "Checkpoints",
    "examples": "Examples won and lost",
    "data": "Data",
    "settings": "Settings",
    "checks": "Checks",
    "environment": "Environment",
    "repeat": "Repeat it",
}
"""Titles of the sections in the order of the report, by anchor."""

EXAMPLE_GROUPS = {
    "won": "Won: right only after tuning",
    "lost": "Lost: right only before",
    "unsolved": "Right neither before nor after",
}
"""Titles of the groups of examples, by name."""


def section_title(anchor: str, target: Target) -> str:
    """Return the title of a section, which two of them take from the metric."""
    if anchor == "kinds" and target.is_mean:
        return f"{metric_label(target)} by kind"
    if anchor == "examples" and target.lower_is_better:
        return "Answers side by side"
    return SECTIONS[anchor]


class Figure(NamedTuple):
    """A key figure: its name, its value, and a note on how to read it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    """A table of texts; all columns of a `numeric` table but the first have figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = False

    def translated(self, language: Language) -> Table:
        """Return the table in a language; names of kinds and the texts of settings stay."""
        if language == "en" or not self.rows:
            return replace(self, head=tuple(translated(name, language) for name in self.head))
        named_by_users = self.head[0] == "kind"
        rows = [
            (cells[0] if named_by_users and number else translated(cells[0], language),
             *(translated(cell, language) for cell in cells[1:]))
            for number, cells in enumerate(self.rows)
        ]  # fmt: skip
        rows = list(self.rows) if self.head[0] == "setting" else rows
        return replace(self, head=tuple(translated(name, language) for name in self.head), rows=tuple(rows))


class KindLine(NamedTuple):
    """Metric of a group of questions for base and tuned model, with 95 % intervals.

    `base` and `tuned` are None if no row of the group can be judged; an interval is None if it is not estimable.
    """

    name: str
    rows: str
    base: float | None
    base_interval: Interval | None
    tuned: float | None
    interval: Interval | None


def verdict_headline(card: Scorecard) -> str:
    """Return the verdict in one sentence."""
    return f"{'Valid' if card.valid else 'Not valid'}: {summary_sentence(card)}"


def summary_sentence(card: Scorecard) -> str:
    """Return a sentence on the change of the target metric, the trained parameters, and why the run is valid or not."""
    target = card.target
    # Lower case: "Valid: " precedes it in Markdown; the page shows the verdict as a badge and capitalises the sentence.
    change = "rose" if target.value > target.base_value else "fell" if target.value < target.base_value else "stayed"
    course = f"from {format_metric(target.base_value, target)} to" if change != "stayed" else "at"
    trained = f"{percent(card.parameters.ratio, 3)} of the parameters trained"
    value = format_metric(target.value, target)
    sentence = f"on {target.task}, {metric_label(target)} {change} {course} {value} with {trained}"
    if card.valid:
        return f"{sentence}, and every gated metric kept at least {retained_text(min_retained(card.retention))}."
    against = card.reasons[0] if len(card.reasons) == 1 else f"{len(card.reasons)} conditions are not met"
    return f"{sentence}, but {against}."


def retained_text(retained: float | None) -> str:
    """Return a retained fraction as text.

    >>> retained_text(0.9512), retained_text(None)
    ('95.1 %', 'not measurable')
    """
    return "not measurable" if retained is None else percent(retained)


def retained_clause(retained: float | None) -> str:
    """Return a retained fraction as a clause.

    >>> retained_clause(0.9512), retained_clause(None)
    ('95.1 % kept', 'retention is not measurable')
    """
    return "retention is not measurable" if retained is None else f"{percent(retained)} kept"


def altered_note(altered: Sequence[str]) -> str:
    """Return a warning that names the files changed since the run finished; empty if there are none."""
    if not altered:
        return ""
    return f"Files changed since the run finished, so these figures may not belong to it: {'; '.join(altered)}."


def key_figures(card: Scorecard) -> tuple[Figure, ...]:
    """Return the figures at the top of a report: target, retention, parameter ratio, and the score if there is one."""
    target, parameters, score = card.target, card.parameters, card.score
    gating = [line for line in card.retention if line.is_gated]
    needed = f"; {percent(gating[0].threshold, 0)} needed" if gating else ""
    figures = (
        Figure(
            metric_label(target),
            # One percent sign serves both values.
            f"{format_metric(target.base_value, target).removesuffix(' %')} → {format_metric(target.value, target)}",
            f"{target.task}, {target.n} test rows; 95 % interval {format_interval(target.interval, target)}"
            + baselines_clause(target),
        ),
        Figure("kept", retained_text(min_retained(card.retention)), f"lowest of {_names(gating)}{needed}"),
        Figure(
            "parameters trained",
            percent(parameters.ratio, 3),
            f"{parameters.trainable:,} of {parameters.total:,} ({parameters.convention})",
        ),
    )
    if score is None:
        return figures
    rank = "" if score.rank is None else f"; place {score.rank} among the {score.published} published"
    return (*figures, Figure("score", f"{score.value:.4f}", f"rule {score.rule}{rank}"))


def baselines_clause(target: Target) -> str:
    """Return the accuracies of the majority answer and of chance as a clause; empty if the answers are free texts."""
    majority = (
        "" if target.majority is None else f"; always {target.majority.answer!r}: {percent(target.majority.value)}"
    )
    return majority + ("" if target.chance is None else f"; chance: {percent(target.chance)}")


def _names(lines: Sequence[RetentionMetric]) -> str:
    return ", ".join(line.metric for line in lines) or "nothing"


def kind_lines(target: Target) -> Iterator[KindLine]:
    """Yield a line for all rows, then one for each kind, the most frequent first."""
    rows = _rows_text(target.n, target.unjudgeable)
    yield KindLine("all rows", rows, target.base_value, target.base_interval, target.value, target.interval)
    for name, kind in sorted(target.by_category.items(), key=lambda item: (-item[1].n, item[0])):
        # The interval of an accuracy follows from its counts; that of a mean would need the rows.
        base = kind.base_interval or (None if target.is_mean else _base_interval(kind))
        yield KindLine(name, _rows_text(kind.n, kind.unjudgeable), kind.base_value, base, kind.value, kind.interval)


def _rows_text(n: int, unjudgeable: int) -> str:
    return f"{n} (+{unjudgeable} unjudgeable)" if unjudgeable else f"{n}"


def _base_interval(kind: CategoryResult) -> Interval | None:
    """Return Wilson's interval of the base's accuracy, for scorecards that have none for kinds."""
    return None if kind.base_value is None else wilson(round(kind.base_value * kind.n), kind.n)


def kinds_table(target: Target) -> Table:
    """Return the metric of each kind with its interval, for base and tuned model."""
    rows = []
    for line in kind_lines(target):
        cells = [*_metric_and_interval(line.base, line.base_interval, target)]
        cells += [*_metric_and_interval(line.tuned, line.interval, target)]
        rows.append((line.name, line.rows, *cells))
    return Table(("kind", "rows", "base", "95 % interval", "tuned", "95 % interval"), tuple(rows), numeric=True)


def _metric_and_interval(value: float | None, interval: Interval | None, target: Target) -> tuple[str, str]:
    return ("–", "–") if value is None else (format_metric(value, target), format_interval(interval, target))


def _metric_with_interval(value: float | None, target: Target, interval: Interval | None) -> str:
    return "–" if value is None else format_metric_with_interval(value, interval, target)


def kinds_note(target: Target) -> str:
    """Return a note on the intervals, the paired test and the scorer behind the figures by kind."""
    kind = "Bootstrap" if target.is_mean else "Wilson"
    scorer = f" Judged by the rule {target.scorer}." if target.scorer else ""
    beside = "".join(f" {name}: {_beside(result)}." for name, result in target.beside.items())
    return (
        f"{kind} intervals, 95 %. Tuning: {paired_text(target)}, "
        f"{'' if target.better else 'not '}better than the base beyond chance.{scorer}{beside}"
    )


def _beside(result: CategoryResult) -> str:
    if result.value is None or result.base_value is None:
        return "no row"
    before = format_points(result.base_value, result.base_interval)
    return f"{before} before, {format_points(result.value, result.interval)} after"


def paired_text(target: Target) -> str:
    """Return the result of the paired test."""
    return f"{target.gained} rows gained, {target.lost} lost, one-sided p = {target.p_value:.2g}"


def retention_table(lines: Sequence[RetentionMetric]) -> Table:
    """Return the retained metrics of base and tuned model, with the result of the gate."""
    rows = tuple(
        (
            f"{line.task}: {line.metric}",
            *(
                format_points(line.base, line.base_interval),
                format_points(line.tuned, line.tuned_interval),
                retained_text(line.retained)
                + ("" if line.retained is None else f" ({format_percent_interval(line.retained_interval)})"),
                percent(line.threshold, 0) if line.is_gated else "–",
            ),
            ("passed" if line.passed else "failed") if line.is_gated else "only reported",
        )
        for line in lines
    )
    return Table(("metric", "base", "tuned", "kept", "needed", "gate"), rows, numeric=True)


RETENTION_NOTE = (
    "F1 and EM range from 0 to 100. Kept is tuned / base, and base / tuned for bits per byte. Each gated metric must "
    "keep the needed fraction; other metrics are only reported. If the base is below 5 points, kept is not measurable. "
    "In brackets: 95 % bootstrap intervals; the interval of kept resamples both figures of a row together. If all rows "
    "are alike, there is none."
)


def checkpoints_table(card: Scorecard) -> Table:
    """Return validation and test metrics of the checkpoints; a dash for those that were not tested."""
    rows = []
    watched = any(point.validation_retained is not None for point in card.checkpoints)
    for point in card.checkpoints:
        gate = "–" if point.gate_passed is None else _result(point.gate_passed)
        retained = "–" if point.gate_passed is None else retained_text(_retained(card, point.name))
        chosen = " (chosen)" if point.name == card.chosen_checkpoint else ""
        figures = (
            _metric_with_interval(point.validation_value, card.target, point.validation_interval),
            *([retained_text(point.validation_retained)] if watched else []),
            _metric_with_interval(point.value, card.target, point.interval),
        )
        rows.append((point.name + chosen, *figures, retained, gate, format_optional(point.score)))
    validation = ("validation", "kept on validation") if watched else ("validation",)
    return Table(("checkpoint", *validation, "test", "kept", "gate", "score"), tuple(rows), numeric=True)


def _retained(card: Scorecard, name: str) -> float | None:
    """Return the lowest retained fraction of a checkpoint's gated metrics."""
    # The scorecard has all retained metrics of the chosen checkpoint, but only the lowest of the others.
    if name == card.chosen_checkpoint:
        return min_retained(card.retention)
    return next(point.retained for point in card.checkpoints if point.name == name)


def tested_checkpoints(card: Scorecard) -> list[tuple[Checkpoint, float, float]]:
    """Return the checkpoints that were tested, each with its retained fraction and its test metric."""
    points = ((point, _retained(card, point.name), point.value) for point in card.checkpoints)
    return [(point, retained, value) for point, retained, value in points if retained is not None and value is not None]


def checkpoints_note(card: Scorecard) -> str:
    """Return a note on how the checkpoint was chosen and which ones were tested."""
    chosen = f"{card.chosen_checkpoint} was chosen on the validation rows."
    tested = [point for point in card.checkpoints if point.value is not None]
    if len(tested) < len(card.checkpoints):
        return (
            f"{chosen} Only this one was tested; the others have validation figures alone "
            "(evaluate.checkpoints=all tests all)."
        )
    # The contest's rule has a choice only among several tested checkpoints.
    if card.best_on_test is None or len(tested) < 2:
        return f"{chosen} All checkpoints were tested."
    best = f"{card.best_on_test.checkpoint} with {format_metric(card.best_on_test.value, card.target)}"
    return f"{chosen} All were tested; the contest's rule would choose the best on the test, {best}."


def answer_figures(answer: Prediction) -> str:
    """Return the scores of an answer whose reference was scored."""
    bits, rouge = (answer.score.scores.get(name) for name in (BITS_PER_BYTE, "rouge_l"))
    parts = [f"{bits:.3f} bits per byte of the reference" if bits is not None else "too long for the model: left out"]
    return ", ".join([*parts, *([f"ROUGE-L {rouge:.1f}"] if rouge is not None else [])])


def score_clause(answer: Prediction, target: Target) -> str:
    """Return the score of an answer as a clause if the metric is the mean of such scores, else an empty text."""
    value = answer.score.scores.get(target.metric) if target.is_mean else None
    return "" if value is None else f", {target.metric} {value:.1f}"


def scores_table(examples: Examples) -> Table:
    """Return how many rows of base and tuned model have a score in each tenth of the scale; empty without scores."""
    counts = {name: score_counts(scores) for name, scores in examples.scores.items()}
    width = 100 // BINS
    rows = [
        (f"{width * number} to {width * (number + 1)}", *(f"{numbers[number]:,}" for numbers in counts.values()))
        for number in range(BINS)
    ]
    return Table(("score", *counts), tuple(rows) if counts else (), numeric=True)


def examples_note(examples: Examples) -> str:
    """Return the number of rows that tuning won and lost."""
    numbers = examples.numbers
    if examples.side_by_side:
        likelier = (
            f"The tuned model finds {numbers['won']} references likelier than the base, {numbers['lost']} less likely"
        )
        return f"{likelier}. {len(examples.side_by_side)} rows, at equal distances, with the answers of both models."
    return (
        f"{numbers['won']} rows won, {numbers['lost']} lost, {numbers['kept']} right before and after, "
        f"{numbers['unsolved']} right neither before nor after. "
        "Examples of each group follow, alternating between kinds, with their full answers."
    )


def checks_table(card: Scorecard) -> Table:
    """Return every condition of a valid run with its result and the evidence."""
    target = card.target
    better = f"{paired_text(target)}, below {SIGNIFICANCE} needed"
    rows = [("better than the base", _result(target.better), better)]
    if (majority := target.majority) is not None:
        evidence = f"always {majority.answer!r}: {percent(majority.value)}, one-sided p = {majority.p_value:.2g}"
        rows.append(("better than the majority answer", _result(majority.better), evidence))
    # Metrics that are only reported decide nothing, so they are not in this table.
    for line in card.retention:
        if line.is_gated:
            gate = f"{retained_clause(line.retained)}, {percent(line.threshold, 0)} needed"
            evidence = f"{line.base:.2f} → {line.tuned:.2f}, {gate}"
            rows.append((f"kept: {line.task} {line.metric}", _result(line.passed), evidence))
    rows += [(check.name, check.result, check.detail) for check in card.checks]
    return Table(("check", "result", "evidence"), tuple(rows))


def claims_table(card: Scorecard) -> Table:
    """Return the claims with their results and the evidence; without rows for a scorecard of an older lotune."""
    rows = tuple((claim.name, claim.result, claim.detail) for claim in card.claims)
    return Table(("claim", "result", "evidence"), rows)


def _result(passed: bool) -> str:
    return "passed" if passed else "failed"


def format_optional(value: float | None) -> str:
    """Return a loss or score with four decimals; a dash for None.

    >>> format_optional(0.25), format_optional(None)
    ('0.2500', '–')
    """
    return "–" if value is None else f"{value:.4f}"
