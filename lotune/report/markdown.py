"""Render a report as Markdown, with the texts and tables of the page, but without its plots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import Scorecard, Target
from lotune.report import provenance, sections, strengths
from lotune.report.languages import Language, translated
from lotune.report.report_data import ExamplePair, Report
from lotune.report.sections import Table
from lotune.text_display import show_control_characters


def render_markdown(report: Report, language: Language = "en") -> str:
    """Return the report as Markdown."""
    card, told = report.card, partial(_told, language=language)
    lines = [f"# {escape_markdown(report.name)}", "", f"**{told(sections.verdict_headline(card))}**", ""]
    if report.altered:
        lines += [f"**{told(sections.altered_note(report.altered))}**", ""]
    # The headline names a single reason itself.
    if len(card.reasons) > 1:
        lines += [*(f"- {told(f'not met: {reason}')}" for reason in card.reasons), ""]
    lines += [f"{told(card.learning)}.", ""] if card.learning else []
    for step in card.next_steps:
        lines += [told(f"To try next: {step.reason}."), "", *fenced(step.command), ""]
    lines += [f"- {told(label)}: **{told(value)}** ({told(note)})" for label, value, note in sections.key_figures(card)]
    lines += [f"- {told(f'base model {card.base}, checkpoint {card.chosen_checkpoint}')}"]
    lines += [f"- {told(note)}" for note in card.notes]
    for anchor in sections.SECTIONS:
        title = told(sections.section_title(anchor, card.target))
        lines += ["", f"## {title}", "", *_section(report, anchor, language)]
    return "\n".join(lines) + "\n"


def _section(report: Report, anchor: str, language: Language) -> list[str]:
    card, told = report.card, partial(_told, language=language)

    def lines_of(content: Table) -> list[str]:
        return table_lines(content.translated(language))

    match anchor:
        case "kinds":
            lines = [*lines_of(sections.kinds_table(card.target)), told(sections.kinds_note(card.target))]
            if report.examples.scores:
                title = f"### {told(f'Distribution of {card.target.metric}')}"
                lines += ["", title, "", *lines_of(sections.scores_table(report.examples))]
            return lines
        case "kept":
            return [*lines_of(sections.retention_table(card.retention)), told(sections.RETENTION_NOTE)]
        case "training":
            return [
                *lines_of(provenance.losses_table(report)),
                told(provenance.training_note(report.training)),
            ]
        case "checkpoints":
            return [
                *lines_of(sections.checkpoints_table(card)),
                told(sections.checkpoints_note(card)),
                *_strength(card, language),
            ]
        case "examples":
            return [told(sections.examples_note(report.examples)), *_examples(report, language)]
        case "data":
            return _data(report, language)
        case "settings":
            return [
                *lines_of(provenance.settings_table(report.settings)),
                *folded(told("The whole recipe"), report.recipe),
            ]
        case "checks":
            claims = [f"### {told('Claims')}", "", *lines_of(sections.claims_table(card))] if card.claims else []
            return [*lines_of(sections.checks_table(card)), *claims]
        case "environment":
            return lines_of(provenance.environment_table(report.environment))
        case _:
            return [*fenced(report.command), "", told(provenance.REPEAT_NOTE)]


def _strength(card: Scorecard, language: Language) -> list[str]:
    if card.strength is None:
        return []
    table = table_lines(strengths.strength_table(card.strength, card.target).translated(language))
    title, note = (
        _told(text, language) for text in ("Strength of the adapter", strengths.strength_note(card.strength))
    )
    return ["", f"### {title}", "", note, "", *table]


def _examples(report: Report, language: Language) -> Iterator[str]:
    if report.examples.side_by_side:
        for row in report.examples.side_by_side:
            yield from _side_by_side(row, language)
        return
    for title, rows in (("Highest scores", report.examples.highest), ("Lowest scores", report.examples.lowest)):
        if rows:
            yield from ["", f"### {_told(title, language)}"]
        for row in rows:
            yield from _example(row, report.card.target, language)
    groups = {"won": report.examples.won, "lost": report.examples.lost, "unsolved": report.examples.unsolved}
    for group, rows in groups.items():
        yield from ["", f"### {_told(sections.EXAMPLE_GROUPS[group], language)} ({report.examples.numbers[group]})"]
        for row in rows:
            yield from _example(row, report.card.target, language)


def _example(row: ExamplePair, target: Target, language: Language) -> Iterator[str]:
    judged, kind = row.tuned.score, f"{row.tuned.category}, " if row.tuned.category else ""
    yield from [
        "",
        *fenced(row.question),
        "",
        escape_markdown(f"{kind}{row.tuned.example_id}, {translated('reference', language)} {judged.reference}"),
        "",
    ]
    yield from folded(_summary("Base", row.base, target, language), row.base.text)
    yield from folded(_summary("Tuned", row.tuned, target, language), row.tuned.text)


def _side_by_side(row: ExamplePair, language: Language) -> Iterator[str]:
    """Yield question and reference of a row, and a table of both answers, each in a cell of its own."""
    yield from [
        "",
        *fenced(row.question),
        "",
        escape_markdown(f"{row.tuned.example_id}, {translated('reference', language)}:"),
        "",
    ]
    yield from [*fenced(row.tuned.score.reference), ""]
    texts = tuple(answer.text.strip() or "nothing" for answer in (row.base, row.tuned))
    figures = tuple(sections.answer_figures(answer) for answer in (row.base, row.tuned))
    head = translated("base", language), translated("tuned", language)
    yield from table_lines(Table(head, (texts, figures)))


def _summary(title: str, answer: Prediction, target: Target, language: Language) -> str:
    verdict = translated("right" if answer.score.correct else "wrong", language) + sections.score_clause(answer, target)
    given = answer.score.extracted or translated("nothing", language)
    return f"{translated(title, language)}: {given} ({verdict})"


def _data(report: Report, language: Language) -> list[str]:
    rows, kinds = report.counts["rows"], provenance.kind_counts(report.counts)
    lines = table_lines(provenance.counts_table(report.counts).translated(language))
    if kinds:
        lines += [_told(f"Training rows by kind: {kinds}.", language), ""]
    lines += folded(translated("The first training row", language), report.counts["tokens"]["first"])
    if rows["malformed_rows"]:
        lines += folded(translated("Malformed rows", language), "\n".join(rows["malformed_rows"]))
    return lines


def _told(text: str, language: Language) -> str:
    """Return a text of lotune in a language, escaped."""
    return escape_markdown(translated(text, language))


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
