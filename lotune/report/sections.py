"""The words and tables of a report: what the page and the Markdown text both say stands here once.

Texts are plain: whoever writes them into a page or into Markdown escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lotune.evaluate.retention import RetentionMetric, min_retained
from lotune.evaluate.scorecard import AskedRows, CategoryResult, Checkpoint, Scorecard, Target
from lotune.evaluate.statistics import SIGNIFICANCE, Interval, wilson
from lotune.report.report_data import Examples, Report, TrainingSummary
from lotune.report.terminal import (
    format_interval,
    format_metric,
    line_figure,
    percent,
    share_span,
    with_span,
)

SECTIONS = {
    "kinds": "Accuracy by kind",
    "kept": "What was kept",
    "training": "Training",
    "checkpoints": "Checkpoints",
    "examples": "Examples won and lost",
    "data": "Data",
    "settings": "Settings",
    "checks": "Checks",
    "environment": "Environment",
    "repeat": "Repeat it",
}
"""The titles of the sections by their anchors, in their order."""

EXAMPLE_GROUPS = {
    "won": "Won: right only after tuning",
    "lost": "Lost: right only before",
    "unsolved": "Right neither before nor after",
}
"""The titles of the groups of examples."""


class Figure(NamedTuple):
    """A key figure: what it is, its value, what to know beside it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    """Rows of texts under a head; `numeric` tables have figures in all columns but the first."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = False


class KindLine(NamedTuple):
    """A group of questions before and after, with 95 % intervals; no figures where nothing can be judged.

    An interval of None beside a figure is not estimable.
    """

    name: str
    rows: str
    base: float | None
    base_interval: Interval | None
    tuned: float | None
    interval: Interval | None


def verdict_headline(card: Scorecard) -> str:
    """The verdict in one sentence."""
    return f"{'Valid' if card.valid else 'Not valid'}: {summary_sentence(card)}"


def summary_sentence(card: Scorecard) -> str:
    """What changed by how little training, and what speaks for it or against it."""
    target = card.target
    change = "rose" if target.value > target.base_value else "fell" if target.value < target.base_value else "stayed"
    course = f"from {format_metric(target.base_value, target)} to" if change != "stayed" else "at"
    trained = f"{percent(card.parameters.ratio, 3)} of the parameters trained"
    sentence = (
        f"on {target.task}, {target.metric} {change} {course} {format_metric(target.value, target)} with {trained}"
    )
    if card.valid:
        return f"{sentence}, and every gated metric kept at least {kept_text(min_retained(card.retention))}."
    against = card.reasons[0] if len(card.reasons) == 1 else f"{len(card.reasons)} conditions are not met"
    return f"{sentence}, but {against}."


def kept_text(kept: float | None) -> str:
    """A share kept, for people.

    >>> kept_text(0.9512), kept_text(None)
    ('95.1 %', 'not measurable')
    """
    return "not measurable" if kept is None else percent(kept)


def kept_clause(kept: float | None) -> str:
    """What was kept of a metric, for people.

    >>> kept_clause(0.9512), kept_clause(None)
    ('95.1 % kept', 'what was kept is not measurable')
    """
    return "what was kept is not measurable" if kept is None else f"{percent(kept)} kept"


def altered_note(altered: Sequence[str]) -> str:
    """The warning that files of the run have changed since; empty where none has."""
    if not altered:
        return ""
    return f"Changed since the run was finished, so the figures may not be its own: {'; '.join(altered)}."


def key_figures(card: Scorecard) -> tuple[Figure, ...]:
    """The four figures at the head: target, kept, ratio, score."""
    target, parameters, score = card.target, card.parameters, card.score
    gating = [line for line in card.retention if line.is_gated]
    needed = f"; {percent(gating[0].threshold, 0)} needed" if gating else ""
    rank = "" if score.rank is None else f"; place {score.rank} beside the {score.published} published"
    return (
        Figure(
            target.metric,
            f"{format_metric(target.base_value, target).removesuffix(' %')} → {format_metric(target.value, target)}",
            f"{target.task}, {target.n} test rows; 95 % interval {format_interval(target.interval, target)}",
        ),
        Figure("kept", kept_text(min_retained(card.retention)), f"the least of {_names(gating)}{needed}"),
        Figure(
            "parameters trained",
            percent(parameters.ratio, 3),
            f"{parameters.trainable:,} of {parameters.total:,} ({parameters.convention})",
        ),
        Figure("score", f"{score.value:.4f}", f"rule {score.rule}{rank}"),
    )


def _names(lines: Sequence[RetentionMetric]) -> str:
    return ", ".join(line.metric for line in lines) or "nothing"


def kind_lines(target: Target) -> Iterator[KindLine]:
    """All rows together, then each kind, the most frequent first."""
    rows = _rows_text(target.n, target.unjudgeable)
    yield KindLine("all rows", rows, target.base_value, target.base_interval, target.value, target.interval)
    for name, kind in sorted(target.by_category.items(), key=lambda item: (-item[1].n, item[0])):
        base = kind.base_interval or (None if target.in_points else _base_interval(kind))
        yield KindLine(name, _rows_text(kind.n, kind.unjudgeable), kind.base_value, base, kind.value, kind.interval)


def _rows_text(n: int, unjudgeable: int) -> str:
    return f"{n} (+{unjudgeable} unjudgeable)" if unjudgeable else f"{n}"


def _base_interval(kind: CategoryResult) -> Interval | None:
    """Wilson's interval of the base's accuracy, which an older scorecard does not hold for kinds."""
    return None if kind.base_value is None else wilson(round(kind.base_value * kind.n), kind.n)


def kinds_table(target: Target) -> Table:
    """Figures by kind with their intervals."""
    rows = []
    for line in kind_lines(target):
        cells = [*_figure_and_span(line.base, line.base_interval, target)]
        cells += [*_figure_and_span(line.tuned, line.interval, target)]
        rows.append((line.name, line.rows, *cells))
    return Table(("kind", "rows", "base", "95 % interval", "tuned", "95 % interval"), tuple(rows), numeric=True)


def _figure_and_span(value: float | None, interval: Interval | None, target: Target) -> tuple[str, str]:
    return ("–", "–") if value is None else (format_metric(value, target), format_interval(interval, target))


def _figure(value: float | None, target: Target, interval: Interval | None) -> str:
    return "–" if value is None else with_span(value, interval, target)


def kinds_note(target: Target) -> str:
    """What the figures by kind rest on: the intervals and the paired test."""
    kind = "Bootstrap" if target.in_points else "Wilson"
    scorer = f" Judged by the rule {target.scorer}." if target.scorer else ""
    return (
        f"{kind} intervals, 95 %. Tuning: {paired_text(target)}, "
        f"{'' if target.better else 'not '}better than the base beyond chance.{scorer}"
    )


def paired_text(target: Target) -> str:
    """What the paired test found."""
    return f"{target.gained} rows gained, {target.lost} lost, one-sided p = {target.p_value:.2g}"


def kept_table(lines: Sequence[RetentionMetric]) -> Table:
    """The retained metrics before and after, against the gate."""
    rows = tuple(
        (
            f"{line.task}: {line.metric}",
            *(
                line_figure(line.base, line.base_interval),
                line_figure(line.tuned, line.tuned_interval),
                kept_text(line.retained)
                + ("" if line.retained is None else f" ({share_span(line.retained_interval)})"),
                percent(line.threshold, 0) if line.is_gated else "–",
            ),
            ("passed" if line.passed else "failed") if line.is_gated else "only reported",
        )
        for line in lines
    )
    return Table(("metric", "base", "tuned", "kept", "needed", "gate"), rows, numeric=True)


KEPT_NOTE = (
    "F1 and EM are 0 to 100. Kept is tuned / base; each gated metric must keep the share needed, others are only "
    "reported. A base below 5 points has nothing to keep: not measurable. In brackets: bootstrap intervals, 95 %; for "
    "what was kept, each row is drawn with both of its figures. Where all rows are alike, none is estimable."
)


def training_note(training: TrainingSummary) -> str:
    """The course of the tuning in numbers."""
    rate = f", {training.tokens / training.seconds:,.0f} tokens a second" if training.seconds else ""
    return f"{training.steps} steps, {training.tokens:,} tokens, {duration(training.seconds)} of training{rate}."


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42.3), duration(754), duration(9000)
    ('42 s', '12 min 34 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def losses_table(report: Report) -> Table:
    """Loss at the checkpoints: training (mean of the steps since the one before) and validation."""
    rows, before = [], 0
    for point in report.card.checkpoints:
        since = [loss for step, loss in report.training.losses if before < step <= point.step]
        mean = f"{sum(since) / len(since):.4f}" if since else "–"
        rows.append((point.name, mean, _digits(point.validation_loss)))
        before = point.step
    return Table(("checkpoint", "training loss", "validation loss"), tuple(rows), numeric=True)


def checkpoints_table(card: Scorecard) -> Table:
    """The checkpoints on the validation rows and, where they were tested, on the test."""
    rows = []
    for point in card.checkpoints:
        gate = "–" if point.gate_passed is None else "passed" if point.gate_passed else "failed"
        kept = "–" if point.gate_passed is None else kept_text(_kept(card, point.name))
        chosen = " (chosen)" if point.name == card.chosen_checkpoint else ""
        figures = (
            _figure(point.validation_value, card.target, point.validation_interval),
            _figure(point.value, card.target, point.interval),
        )
        rows.append((point.name + chosen, *figures, kept, gate, _digits(point.score)))
    return Table(("checkpoint", "validation", "test", "kept", "gate", "score"), tuple(rows), numeric=True)


def _kept(card: Scorecard, name: str) -> float | None:
    """The least share that a checkpoint kept; the chosen one's is known from the card's own lines."""
    if name == card.chosen_checkpoint:
        return min_retained(card.retention)
    return next(point.retained for point in card.checkpoints if point.name == name)


def tested_checkpoints(card: Scorecard) -> list[tuple[Checkpoint, float, float]]:
    """Each checkpoint for which both are known: the share that it kept and its figure on the test."""
    found = ((point, _kept(card, point.name), point.value) for point in card.checkpoints)
    return [(point, kept, value) for point, kept, value in found if kept is not None and value is not None]


def checkpoints_note(card: Scorecard) -> str:
    """How the checkpoint was chosen, and which were tested."""
    chosen = f"{card.chosen_checkpoint} was chosen on the validation rows."
    tested = [point for point in card.checkpoints if point.value is not None]
    if len(tested) < len(card.checkpoints):
        return (
            f"{chosen} Only it was tested on the test; of the others, the validation figures are shown "
            "(evaluate.checkpoints=all tests all)."
        )
    if card.best_on_test is None or len(tested) < 2:
        return f"{chosen} All checkpoints were tested."
    best = f"{card.best_on_test.checkpoint} with {format_metric(card.best_on_test.value, card.target)}"
    return f"{chosen} All were tested; by the contest's rule, the best of them on the test, it would be {best}."


def examples_note(examples: Examples) -> str:
    """How many rows tuning won and lost."""
    numbers = examples.numbers
    return (
        f"{numbers['won']} rows won, {numbers['lost']} lost, {numbers['kept']} right before and after, "
        f"{numbers['unsolved']} right neither before nor after. "
        "Some of each, the kinds in turn, with the whole answers."
    )


def counts_table(counts: Mapping[str, Any]) -> Table:
    """What became of the rows."""
    rows, tokens = counts["rows"], counts["tokens"]
    share = tokens["supervised"] / tokens["tokens"] if tokens["tokens"] else 0.0
    lines = [
        ("rows read", f"{rows['read']:,}"),
        ("malformed, left out", f"{rows['malformed']:,}"),
        ("duplicates removed", f"{rows['duplicates']:,}"),
        ("not drawn", f"{rows['not_sampled']:,}"),
        ("split off to validation", f"{rows['validation']:,}"),
        ("removed from validation because the test asks them", f"{rows.get('validation_removed', 0):,}"),
        ("split off to the test", f"{rows['test']:,}"),
        *(
            (f"in training and in {name} ({found['rows']:,} rows)", f"{found['seen']:,}")
            for name, found in rows["overlap"]["sets"].items()
        ),
        ("removed because an evaluation set asks them", f"{rows['overlap']['removed']:,}"),
        ("kept to train on", f"{rows['kept']:,}"),
        ("rows of the retained task mixed in", f"{counts.get('replay', 0):,}"),
        ("dropped as too long", f"{tokens['dropped_too_long']:,} (longer than {tokens['limit']:,} tokens)"),
        *((f"left out of {name}, too long to be asked", f"{n:,}") for name, n in tokens.get("left_out", {}).items()),
        *_asked_lines([AskedRows(**one) for one in counts.get("asked", ())]),
        ("tokens", f"{tokens['tokens']:,} in {tokens['rows']:,} rows; longest row {tokens['longest']:,}"),
        ("trained on, of these tokens", f"{tokens['supervised']:,} ({percent(share)})"),
        ("retention prompts cut to fit", f"{tokens['retention_cut']:,}"),
    ]
    return Table(("count", "number"), tuple(lines), numeric=True)


def _asked_lines(asked: Sequence[AskedRows]) -> Iterator[tuple[str, str]]:
    """What became of the rows of the evaluation sets."""
    for one in asked:
        of = "" if one.file_rows is None else f" of {one.file_rows:,} in {one.file}"
        yield f"{one.name} rows", f"{one.rows:,}{of}"
        if one.too_long:
            yield f"{one.name} rows too long to be asked, counted as wrong", f"{one.too_long:,}"
        if one.cut:
            yield f"{one.name} prompts cut to fit", f"{one.cut:,}"


def kind_counts(counts: Mapping[str, Any]) -> str:
    """The training rows by kind, the most frequent first; empty where they have none."""
    kinds = sorted(counts["rows"]["kinds"].items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name or 'none'} {number:,}" for name, number in kinds)


def settings_table(report: Report) -> Table:
    """The settings that differ from the defaults."""
    rows = tuple((one.key, one.value, one.default, one.sentence) for one in report.settings)
    return Table(("setting", "value", "default", "meaning"), rows)


def checks_table(card: Scorecard) -> Table:
    """Everything that validity needs, each with its evidence."""
    target = card.target
    better = f"{paired_text(target)}, below {SIGNIFICANCE} needed"
    rows = [("better than the base", _result(target.better), better)]
    for line in card.retention:
        if line.is_gated:
            share = f"{kept_clause(line.retained)}, {percent(line.threshold, 0)} needed"
            evidence = f"{line.base:.2f} → {line.tuned:.2f}, {share}"
            rows.append((f"kept: {line.task} {line.metric}", _result(line.passed), evidence))
    rows += [(check.name, _result(check.passed), check.detail) for check in card.checks]
    return Table(("check", "result", "evidence"), tuple(rows))


def _result(passed: bool) -> str:
    return "passed" if passed else "failed"


def environment_table(environment: Mapping[str, Any]) -> Table:
    """Versions and hardware."""
    memory = environment.get("memory_bytes")
    packages: Mapping[str, Any] = environment.get("packages") or {}
    lines = [
        ("lotune", _known(environment.get("lotune"))),
        ("git revision", _known(environment.get("git_revision"))),
        ("python", _known(environment.get("python"))),
        ("packages", ", ".join(f"{name} {_known(version)}" for name, version in packages.items()) or "–"),
        ("system", _known(environment.get("system"))),
        ("processor", f"{_known(environment.get('processor'))}, {_known(environment.get('cores'))} cores"),
        ("memory", f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else "–"),
        ("accelerators", ", ".join(map(str, environment.get("accelerators") or ())) or "none"),
    ]
    return Table(("part", "what it was"), tuple(lines))


def _known(value: Any) -> str:
    return "–" if value is None else str(value)


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


REPEAT_NOTE = (
    "Written into a new folder from the recipe of this one, with the same seed. Given in the folder in which the "
    "run was started, with the versions above, on the same machine, it gives the same figures."
)
