"""Render a report as one self-contained HTML page, with styles and plots inside and without scripts.

The template escapes every text, shows hidden characters as marks, and isolates its direction (`bdi`, or `dir="auto"` on
blocks), so that a right-to-left answer reorders nothing around it. Only the plots are inserted unescaped; they escape
their own labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lotune.evaluate.scorecard import Scorecard
from lotune.report import provenance, sections, strengths
from lotune.report.canvas import LabelledPoint, Point
from lotune.report.languages import Language, translated
from lotune.report.plots import (
    NARROW,
    WIDE,
    histogram,
    interval_strip,
    legend_swatch,
    loss_plot,
    retention_bar,
    target_vs_retention_plot,
    validation_plot,
    watched_plot,
)
from lotune.report.report_data import Report
from lotune.report.scales import scale_end, scale_marks
from lotune.report.terminal import format_metric
from lotune.text_display import show_control_characters

HTML_TEMPLATES = Path(__file__).parent / "templates"


def render_page(report: Report, language: Language = "en") -> str:
    """Return the report as HTML."""
    card = report.card
    return (
        page_environment(language)
        .get_template("report.html.jinja")
        .render(
            report=report,
            sections=sections,
            provenance=provenance,
            strengths=strengths,
            style=page_style(),
            kinds=list(
                zip(sections.kinds_table(card.target).translated(language).rows, kind_strips(report), strict=True)
            ),
            kept=list(
                zip(
                    sections.retention_table(card.retention).translated(language).rows,
                    retention_bars(report),
                    strict=True,
                )
            ),
            scale=scale_marks(report.card.target),
            plots={name: in_language(plot, language) for name, plot in plots(report).items()},
        )
    )


def in_language(plot: Markup, language: Language) -> Markup:
    """Return a plot with its texts in a language; they are lotune's own."""

    def told(found: re.Match[str]) -> str:
        return f"{found[1]}{Markup.escape(translated(Markup(found[2]).unescape(), language))}{found[3]}"

    return plot if language == "en" else Markup(_PLOT_TEXT.sub(told, str(plot)))


_PLOT_TEXT = re.compile(r"(<text[^>]*>)([^<]*)(</text>)")


def page_environment(language: Language = "en") -> Environment:
    """Return the environment of the pages: it escapes every text, and has the filters plain, isolated and unbroken.

    Its function `t` returns a text of lotune in the language of the page.
    """
    loader = FileSystemLoader(HTML_TEMPLATES)
    # StrictUndefined makes a misspelt name in the template an error instead of an empty text.
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = show_control_characters
    environment.filters["isolated"] = _isolate
    environment.filters["unbroken"] = lambda text: _isolate(text.replace(" %", "\N{NO-BREAK SPACE}%"))
    environment.filters["stacked"] = _stack
    environment.filters["filled"] = lambda text, base, name: Markup.escape(text).format(
        base=_isolate(base), name=_isolate(name)
    )
    environment.globals["t"] = partial(translated, language=language)
    environment.globals["capitalised"] = lambda text: _capitalised(translated(text, language))
    environment.globals["language"] = language
    environment.globals["key"] = lambda kind: Markup(legend_swatch(kind))
    return environment


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def page_style() -> Markup:
    """Return the styles of the pages."""
    return Markup((HTML_TEMPLATES / "report.css").read_text(encoding="utf-8"))


def _isolate(text: str) -> Markup:
    """Return a text with its hidden characters as marks, isolated from the text direction around it."""
    return Markup("<bdi>{}</bdi>").format(show_control_characters(text))


def _stack(text: str) -> Markup:
    """Return a figure with the text in brackets after it on a line below."""
    # A phone's narrow cell has no space for a figure and its interval on one line.
    figure, span, *_ = [*re.split(r" \(|（", text.replace(" %", "\N{NO-BREAK SPACE}%"), maxsplit=1), ""]
    return Markup("{}<small>{}</small>").format(_isolate(figure), show_control_characters(span.rstrip(")）")))


def kind_strips(report: Report) -> list[Markup]:
    """Return a strip for each line of the table of kinds; empty if no row of the kind can be judged."""
    target = report.card.target
    scale = scale_end(target)  # a strip's own scale ends at 1
    strips = []
    for line in sections.kind_lines(target):
        if line.base is None or line.tuned is None:
            strips.append(Markup(""))
            continue
        intervals = [
            interval and type(interval)(interval.low / scale, interval.high / scale)
            for interval in (line.base_interval, line.interval)
        ]
        label = show_control_characters(
            f"{line.name}: {format_metric(line.base, target)} before, {format_metric(line.tuned, target)} after"
        )
        picture = interval_strip(line.base / scale, intervals[0], line.tuned / scale, intervals[1], label)
        strips.append(Markup(picture))
    return strips


def retention_bars(report: Report) -> list[Markup]:
    """Return a bar of the retained fraction for each retained metric."""
    lines = report.card.retention
    labels = [
        show_control_characters(
            f"{line.metric}: {sections.retained_clause(line.retained)}, {line.threshold:.0%} needed"
        )
        for line in lines
    ]
    return [
        Markup(retention_bar(line.retained, line.threshold, label, passed=line.passed or not line.is_gated))
        for line, label in zip(lines, labels, strict=True)
    ]


def plots(report: Report) -> dict[str, Markup]:
    """Return the plots by name, each for desktop and phone; empty if there is nothing to plot."""
    # CSS shows the one that fits the screen: text in a scaled SVG would be too small to read on a phone.
    return {name: for_both_screens(partial(draw, report)) for name, draw in _plots().items()}


def pictures(report: Report) -> dict[str, str]:
    """Return the plots by name, each as the content of an SVG file of its own; without those that have no figures."""
    drawn = {name: draw(report, WIDE) for name, draw in _plots().items()}
    return {name: svg_file(picture) for name, picture in drawn.items() if picture}


def svg_file(picture: str) -> str:
    """Return a plot as the content of an SVG file, with the styles of the page inside."""
    body = picture.partition(">")[2]
    head = picture.partition(">")[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}><style><![CDATA[\n{page_style()}]]></style>{body}\n"


def _plots() -> dict[str, Callable[[Report, int], str]]:
    return {
        "loss": _loss,
        "validation": _validation,
        "watched": _watched,
        "strength": _strength,
        "trade": _trade,
        "scores": _scores,
    }


def for_both_screens(draw: Callable[[int], str]) -> Markup:
    """Return a plot, drawn for a width in pixels, for desktop and for phone; empty if the plot is."""
    wide, narrow = draw(WIDE), draw(NARROW)
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>' if wide else "")


def _loss(report: Report, width: int) -> str:
    points = report.card.checkpoints
    validation = [Point(point.step, point.validation_loss) for point in points if point.validation_loss is not None]
    return loss_plot(report.training.losses, validation, width) if report.training.losses else ""


def _validation(report: Report, width: int) -> str:
    """Plot the validation metrics, unless all checkpoints were tested: then the plot of the test shows more."""
    card = report.card
    points = [
        LabelledPoint(
            Point(checkpoint.step, checkpoint.validation_value),
            format_metric(checkpoint.validation_value, card.target),
            "chosen" if checkpoint.name == card.chosen_checkpoint else "tuned",
        )
        for checkpoint in card.checkpoints
        if checkpoint.validation_value is not None
    ]
    if not points or all(checkpoint.value is not None for checkpoint in card.checkpoints):
        return ""
    name = f"validation {card.target.metric}"
    highest = scale_end(card.target, [labelled.point.y for labelled in points])
    return validation_plot(points, name, highest, width, percent=not card.target.is_mean)


def _watched(report: Report, width: int) -> str:
    """Plot the retained fraction on the validation rows by step, with the gate."""
    card = report.card
    points = [
        LabelledPoint(
            Point(checkpoint.step, checkpoint.validation_retained),
            f"{checkpoint.validation_retained:.0%}",
            "chosen" if checkpoint.name == card.chosen_checkpoint else "tuned",
        )
        for checkpoint in card.checkpoints
        if checkpoint.validation_retained is not None
    ]
    thresholds = [line.threshold for line in card.retention if line.is_gated]
    return watched_plot(points, max(thresholds), width) if points and thresholds else ""


def _strength(report: Report, width: int) -> str:
    """Plot validation metric and retained fraction of the chosen adapter at the strengths that were tried."""
    card = report.card
    if card.strength is None:
        return ""
    points = [
        LabelledPoint(
            Point(tried.retained, tried.value),
            tried.label,
            "chosen" if tried.strengths == card.strength.chosen else "tuned",
        )
        for tried in card.strength.points
        if tried.retained is not None
    ]
    return _against_retention(card, points, "validation", width) if points else ""


def _scores(report: Report, width: int) -> str:
    """Plot the distribution of the scores of base and tuned model, if the metric is their mean."""
    groups = list(report.examples.scores.items())
    return histogram(groups, report.card.target.metric, width) if groups else ""


def _trade(report: Report, width: int) -> str:
    card = report.card
    tested = sections.tested_checkpoints(card)
    if not tested:
        return ""
    points = [LabelledPoint(Point(1.0, card.target.base_value), "base", "base")]
    for checkpoint, retained, value in tested:
        kind = "chosen" if checkpoint.name == card.chosen_checkpoint else "tuned"
        points.append(LabelledPoint(Point(retained, value), f"step {checkpoint.step}", kind))
    return _against_retention(card, points, "test", width)


def _against_retention(card: Scorecard, points: Sequence[LabelledPoint], rows: str, width: int) -> str:
    threshold = max(line.threshold for line in card.retention if line.is_gated)
    highest = scale_end(card.target, [labelled.point.y for labelled in points])
    name = f"{rows} {card.target.metric}"
    return target_vs_retention_plot(points, threshold, name, highest, width, percent=not card.target.is_mean)
