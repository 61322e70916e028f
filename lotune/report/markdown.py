"""Render a report as Markdown, with the texts and tables of the page, but without its plots."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import Scorecard, Target
from lotune.report import provenance, sections, strengths
from lotune.report.report_data import ExamplePair, Report
from lotune.report.sections import Table
from lotune.text_display import show_control_characters


def render_markdown(report: Report) -> str:
    """Return the report as Markdown."""
    card = report.card
    lines = [f"# {escape_markdown(report.name)}", "", f"**{escape_markdown(sections.verdict_headline(card))}**", ""]
    if report.altered:
        lines += [f"**{escape_markdown(sections.altered_note(report.altered))}**", ""]
    # The headline names a single reason itself.
    if len(card.reasons) > 1:
        lines += [*(f"- not met: {escape_markdown(reason)}" for reason in card.reasons), ""]
    lines += [f"{escape_markdown(card.learning)}.", ""] if card.learning else []
    for step in card.next_steps:
        lines += [f"To try next: {escape_markdown(step.reason)}.", "", *fenced(step.command), ""]
    lines += [
        f"- {escape_markdown(label)}: **{escape_markdown(value)}** ({escape_markdown(note)})"
        for label, value, note in sections.key_figures(card)
    ]
    lines += [f"- base model {escape_markdown(card.base)}, checkpoint {escape_markdown(card.chosen_checkpoint)}"]
    lines += [f"- {escape_markdown(note)}" for note in card.notes]
    for anchor in sections.SECTIONS:
        title = escape_markdown(sections.section_title(anchor, card.target))
        lines += ["", f"## {title}", "", *_section(report, anchor)]
    return "\n".join(lines) + "\n"


def _section(report: Report, anchor: str) -> list[str]:
    card = report.card
    match anchor:
        case "kinds":
            lines = [*table_lines(sections.kinds_table(card.target)), escape_markdown(sections.kinds_note(card.target))]
            if report.examples.scores:
                title = f"### Distribution of {escape_markdown(card.target.metric)}"
                lines += ["", title, "", *table_lines(sections.scores_table(report.examples))]
            return lines
        case "kept":
            return [*table_lines(sections.retention_table(card.retention)), escape_markdown(sections.RETENTION_NOTE)]
        case "training":
            return [
                *table_lines(provenance.losses_table(report)),
                escape_markdown(provenance.training_note(report.training)),
            ]
        case "checkpoints":
            return [
                *table_lines(sections.checkpoints_table(card)),
                escape_markdown(sections.checkpoints_note(card)),
                *_strength(card),
            ]
        case "examples":
            return [escape_markdown(sections.examples_note(report.examples)), *_examples(report)]
        case "data":
            return _data(report)
        case "settings":
            return [
                *table_lines(provenance.settings_table(report.settings)),
                *folded("The whole recipe", report.recipe),
            ]
        case "checks":
            claims = ["### Claims", "", *table_lines(sections.claims_table(card))] if card.claims else []
            return [*table_lines(sections.checks_table(card)), *claims]
        case "environment":
            return table_lines(provenance.environment_table(report.environment))
        case _:
            return [*fenced(report.command), "", provenance.REPEAT_NOTE]


def _strength(card: Scorecard) -> list[str]:
    if card.strength is None:
        return []
    table = table_lines(strengths.strength_table(card.strength, card.target))
    return ["", "### Strength of the adapter", "", escape_markdown(strengths.strength_note(card.strength)), "", *table]


def _examples(report: Report) -> Iterator[str]:
    if report.examples.side_by_side:
        for row in report.examples.side_by_side:
            yield from _side_by_side(row)
        return
    for title, rows in (("Highest scores", report.examples.highest), ("Lowest scores", report.examples.lowest)):
        if rows:
            yield from ["", f"### {title}"]
        for row in rows:
            yield from _example(row, report.card.target)
    groups = {"won": report.examples.won, "lost": report.examples.lost, "unsolved": report.examples.unsolved}
    for group, rows in groups.items():
        yield from ["", f"### {sections.EXAMPLE_GROUPS[group]} ({report.examples.numbers[group]})"]
        for row in rows:
            yield from _example(row, report.card.target)


def _example(row: ExamplePair, target: Target) -> Iterator[str]:
    judged, kind = row.tuned.score, f"{row.tuned.category}, " if row.tuned.category else ""
    yield from [
        "",
        *fenced(row.question),
        "",
        escape_markdown(f"{kind}{row.tuned.example_id}, key {judged.reference}"),
        "",
    ]
    yield from folded(_summary("Base", row.base, target), row.base.text)
    yield from folded(_summary("Tuned", row.tuned, target), row.tuned.text)


def _side_by_side(row: ExamplePair) -> Iterator[str]:
    """Yield question and reference of a row, and a table of both answers, each in a cell of its own."""
    yield from ["", *fenced(row.question), "", escape_markdown(f"{row.tuned.example_id}, reference:"), ""]
    yield from [*fenced(row.tuned.score.reference), ""]
    texts = tuple(answer.text.strip() or "nothing" for answer in (row.base, row.tuned))
    figures = tuple(sections.answer_figures(answer) for answer in (row.base, row.tuned))
    yield from table_lines(Table(("base", "tuned"), (texts, figures)))


def _summary(title: str, answer: Prediction, target: Target) -> str:
    verdict = f"{'right' if answer.score.correct else 'wrong'}{sections.score_clause(answer, target)}"
    return f"{title}: {answer.score.extracted or 'nothing'} ({verdict})"


def _data(report: Report) -> list[str]:
    rows, kinds = report.counts["rows"], provenance.kind_counts(report.counts)
    lines = table_lines(provenance.counts_table(report.counts))
    if kinds:
        lines += [escape_markdown(f"Training rows by kind: {kinds}."), ""]
    lines += folded("The first training row", report.counts["tokens"]["first"])
    if rows["malformed_rows"]:
        lines += folded("Malformed rows", "\n".join(rows["malformed_rows"]))
    return lines


def folded(title: str, text: str) -> list[str]:
    """Return the lines of a text that is hidden under its title until the reader opens it."""
    # Without the blank lines, a renderer would show the fences inside the HTML element as plain text.
    return [f"<details><summary>{escape_markdown(title)}</summary>", "", *fenced(text), "", "</details>", ""]


def table_lines(content: Table) -> list[str]:
    """Return the lines of a table with its texts escaped, and an empty line."""
    # Figures are aligned to the right, so that their digits can be compared down a column.
    sides = [":--", *(["--:" if content.numeric else ":--"] * (len(content.head) - 1))]
    rows = [[escape_markdown(cell) for cell in row] for row in (content.head, *content.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"| {' | '.join(sides)} |", *lines[1:], ""]


def escape_markdown(text: str) -> str:
    r"""Return a text on one line, escaped so that nothing in it is read as Markdown or HTML.

    >>> escape_markdown("a|b <b> *c*\n[d](e) x_1")
    'a\\|b &lt;b&gt; \\*c\\* \\[d\\](e) x\\_1'
    """
    text = (
        " ".join(show_control_characters(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def fenced(text: str) -> list[str]:
    r"""Return the lines of a text as a block of code, even if the text contains fences.

    >>> fenced("a\n```")
    ['````', 'a\n```', '````']
    """
    # A block ends at a fence at least as long as its own, so one more backtick than in the text is safe.
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, show_control_characters(text.rstrip("\n")), fence]
