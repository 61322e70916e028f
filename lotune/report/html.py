"""A report as one HTML page that needs nothing else: styles and plots stand in it, and it runs no script.

Whatever a person or a model wrote is escaped by the template, its hidden characters are shown as marks, and it has a
direction of its own (`bdi`, or `dir="auto"` on blocks), so that it reorders nothing around it. Only the plots are put
in as they are, and these escape their own labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lotune.report import provenance, sections
from lotune.report.canvas import LabelledPoint, Point
from lotune.report.plots import (
    NARROW,
    WIDE,
    interval_strip,
    legend_swatch,
    loss_plot,
    retention_bar,
    target_vs_retention_plot,
    validation_plot,
)
from lotune.report.report_data import Report
from lotune.report.terminal import format_metric
from lotune.text_display import show_control_characters

HTML_TEMPLATES = Path(__file__).parent / "templates"


def render_page(report: Report) -> str:
    """The report as HTML."""
    loader = FileSystemLoader(HTML_TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = show_control_characters
    environment.filters["written"] = _isolated
    environment.filters["said"] = lambda text: _isolated(text.replace(" %", "\N{NO-BREAK SPACE}%"))
    environment.filters["stacked"] = _stacked
    environment.globals["key"] = lambda kind: Markup(legend_swatch(kind))
    return environment.get_template("report.html.jinja").render(
        report=report,
        sections=sections,
        provenance=provenance,
        style=Markup((HTML_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        kinds=list(zip(sections.kinds_table(report.card.target).rows, kind_strips(report), strict=True)),
        kept=list(zip(sections.kept_table(report.card.retention).rows, kept_strips(report), strict=True)),
        plots=plots(report),
    )


def _isolated(text: str) -> Markup:
    """A text from outside, or one that holds such, with its hidden characters as marks and a direction of its own."""
    return Markup("<bdi>{}</bdi>").format(show_control_characters(text))


def _stacked(text: str) -> Markup:
    """A figure with what stands in brackets after it below."""
    figure, _, span = text.replace(" %", "\N{NO-BREAK SPACE}%").partition(" (")
    return Markup("{}<small>{}</small>").format(_isolated(figure), show_control_characters(span.removesuffix(")")))


def kind_strips(report: Report) -> list[Markup]:
    """For each line of the table of kinds, a picture of it; nothing where nothing can be judged."""
    target = report.card.target
    scale = 100 if target.in_points else 1
    strips = []
    for line in sections.kind_lines(target):
        if line.base is None or line.tuned is None:
            strips.append(Markup(""))
            continue
        intervals = [
            one and type(one)(one.low / scale, one.high / scale) for one in (line.base_interval, line.interval)
        ]
        label = show_control_characters(
            f"{line.name}: {format_metric(line.base, target)} before, {format_metric(line.tuned, target)} after"
        )
        picture = interval_strip(line.base / scale, intervals[0], line.tuned / scale, intervals[1], label)
        strips.append(Markup(picture))
    return strips


def kept_strips(report: Report) -> list[Markup]:
    """For each retained metric, a bar of what was kept."""
    lines = report.card.retention
    labels = [
        show_control_characters(f"{line.metric}: {sections.kept_clause(line.retained)}, {line.threshold:.0%} needed")
        for line in lines
    ]
    return [
        Markup(retention_bar(line.retained, line.threshold, label, passed=line.passed or not line.is_gated))
        for line, label in zip(lines, labels, strict=True)
    ]


def plots(report: Report) -> dict[str, Markup]:
    """The plots by name, each for a desk and for a phone; empty where there is nothing to plot."""
    return {
        "loss": _both(lambda width: _loss(report, width)),
        "validation": _both(lambda width: _validation(report, width)),
        "trade": _both(lambda width: _trade(report, width)),
    }


def _both(draw: Callable[[int], str]) -> Markup:
    wide, narrow = draw(WIDE), draw(NARROW)
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>' if wide else "")


def _loss(report: Report, width: int) -> str:
    points = report.card.checkpoints
    validation = [Point(one.step, one.validation_loss) for one in points if one.validation_loss is not None]
    return loss_plot(report.training.losses, validation, width) if report.training.losses else ""


def _validation(report: Report, width: int) -> str:
    """The validation figures, where not all checkpoints were tested."""
    card = report.card
    marks = [
        LabelledPoint(
            Point(one.step, one.validation_value),
            format_metric(one.validation_value, card.target),
            "chosen" if one.name == card.chosen_checkpoint else "tuned",
        )
        for one in card.checkpoints
        if one.validation_value is not None
    ]
    if not marks or all(one.value is not None for one in card.checkpoints):
        return ""
    name = f"validation {card.target.metric}"
    return validation_plot(marks, name, not card.target.in_points, width)


def _trade(report: Report, width: int) -> str:
    card = report.card
    tested = sections.tested_checkpoints(card)
    if not tested:
        return ""
    marks = [LabelledPoint(Point(1.0, card.target.base_value), "base", "base")]
    for one, kept, value in tested:
        kind = "chosen" if one.name == card.chosen_checkpoint else "tuned"
        marks.append(LabelledPoint(Point(kept, value), f"step {one.step}", kind))
    threshold = max(line.threshold for line in card.retention if line.is_gated)
    return target_vs_retention_plot(marks, threshold, f"test {card.target.metric}", not card.target.in_points, width)
