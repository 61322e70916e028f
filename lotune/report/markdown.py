"""A report as Markdown: the same words and tables as the page, without its plots."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lotune.evaluate.predict import Prediction
from lotune.report import words
from lotune.report.contents import Answered, Report
from lotune.report.words import Table
from lotune.text_display import visible


def render_markdown(report: Report) -> str:
    """The report as Markdown."""
    card = report.card
    lines = [f"# {plain(report.name)}", "", f"**{plain(words.verdict(card))}**", ""]
    if report.altered:
        lines += [f"**{plain(words.altered_note(report.altered))}**", ""]
    if len(card.reasons) > 1:
        lines += [*(f"- not met: {plain(reason)}" for reason in card.reasons), ""]
    lines += [f"- {plain(label)}: **{plain(value)}** ({plain(note)})" for label, value, note in words.key_figures(card)]
    lines += [f"- base model {plain(card.base)}, checkpoint {plain(card.chosen_checkpoint)}"]
    lines += [f"- {plain(note)}" for note in card.notes]
    for anchor, title in words.SECTIONS.items():
        lines += ["", f"## {title}", "", *_section(report, anchor)]
    return "\n".join(lines) + "\n"


def _section(report: Report, anchor: str) -> list[str]:
    card = report.card
    match anchor:
        case "kinds":
            return [*table(words.kinds_table(card.target)), plain(words.kinds_note(card.target))]
        case "kept":
            return [*table(words.kept_table(card.retention)), plain(words.KEPT_NOTE)]
        case "training":
            return [*table(words.losses_table(report)), plain(words.training_note(report.training))]
        case "checkpoints":
            return [*table(words.checkpoints_table(card)), plain(words.checkpoints_note(card))]
        case "examples":
            return [plain(words.examples_note(report.examples)), *_examples(report)]
        case "data":
            return _data(report)
        case "settings":
            return [*table(words.settings_table(report)), *_folded("The whole recipe", report.recipe)]
        case "checks":
            return table(words.checks_table(card))
        case "environment":
            return table(words.environment_table(report.environment))
        case _:
            return [*fenced(report.command), "", words.REPEAT_NOTE]


def _examples(report: Report) -> Iterator[str]:
    groups = {"won": report.examples.won, "lost": report.examples.lost, "unsolved": report.examples.unsolved}
    for group, rows in groups.items():
        yield from ["", f"### {words.GROUPS[group]} ({report.examples.numbers[group]})"]
        for row in rows:
            yield from _example(row)


def _example(row: Answered) -> Iterator[str]:
    judged, kind = row.tuned.judged, f"{row.tuned.kind}, " if row.tuned.kind else ""
    yield from ["", *fenced(row.question), "", plain(f"{kind}{row.tuned.example_id}, key {judged.key}"), ""]
    yield from _folded(_summary("Base", row.base), row.base.text)
    yield from _folded(_summary("Tuned", row.tuned), row.tuned.text)


def _summary(title: str, one: Prediction) -> str:
    return f"{title}: {one.judged.read or 'nothing'} ({'right' if one.judged.right else 'wrong'})"


def _data(report: Report) -> list[str]:
    rows, kinds = report.counts["rows"], words.kind_counts(report.counts)
    lines = table(words.counts_table(report.counts))
    if kinds:
        lines += [plain(f"Training rows by kind: {kinds}."), ""]
    lines += _folded("The first row as it is trained on", report.counts["tokens"]["first"])
    if rows["malformed_rows"]:
        lines += _folded("Malformed rows", "\n".join(rows["malformed_rows"]))
    return lines


def _folded(title: str, text: str) -> list[str]:
    return [f"<details><summary>{plain(title)}</summary>", "", *fenced(text), "", "</details>", ""]


def table(content: Table) -> list[str]:
    """A table, every text in it escaped, and an empty line."""
    sides = [":--", *(["--:" if content.numeric else ":--"] * (len(content.head) - 1))]
    rows = [[plain(cell) for cell in row] for row in (content.head, *content.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"| {' | '.join(sides)} |", *lines[1:], ""]


def plain(text: str) -> str:
    r"""A written text on one line, so that nothing in it is read as Markdown or HTML.

    >>> plain("a|b <b> *c*\n[d](e) x_1")
    'a\\|b &lt;b&gt; \\*c\\* \\[d\\](e) x\\_1'
    """
    text = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def fenced(text: str) -> list[str]:
    r"""A written text as a block of code, whatever fences stand in it.

    >>> fenced("a\n```")
    ['````', 'a\n```', '````']
    """
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, visible(text.rstrip("\n")), fence]
