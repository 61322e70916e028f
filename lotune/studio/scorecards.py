"""The scorecard of a run in the words and digits of its report, as tables for a page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from lotune.studio.errors import CallError


def scorecard_tables(folder: Path, language: Literal["en", "zh"] = "en") -> dict[str, Any]:
    """Return headline, key figures, tables and notes of a run's scorecard in a language.

    Raises: CallError for a run without one; RunError for one that cannot be read.
    """
    # Imported for the first result that somebody looks at: the first page must not wait for them.
    from lotune.evaluate.scorecard import read_scorecard
    from lotune.report import sections
    from lotune.report.languages import translated

    file = folder / "scorecard.json"
    if not file.is_file():
        raise CallError(409, "not_finished", "this run has no scorecard yet")
    card, told = read_scorecard(file), partial(translated, language=language)
    tables = {
        "kinds": sections.kinds_table(card.target), "kept": sections.retention_table(card.retention),
        "checkpoints": sections.checkpoints_table(card), "checks": sections.checks_table(card),
        "claims": sections.claims_table(card),
    }  # fmt: skip
    notes = {"kinds": sections.kinds_note(card.target), "kept": sections.RETENTION_NOTE,
             "checkpoints": sections.checkpoints_note(card)}  # fmt: skip
    return {
        "valid": card.valid, "headline": told(sections.verdict_headline(card)),
        "reasons": [told(reason) for reason in card.reasons],
        "figures": [
            {name: told(text) for name, text in figure._asdict().items()} for figure in sections.key_figures(card)
        ],
        "tables": [
            {"name": name, "title": told(sections.SECTIONS.get(name, name.capitalize())), "head": table.head,
             "rows": table.rows, "numeric": table.numeric, "note": told(notes.get(name, ""))}
            for name, table in ((name, table.translated(language)) for name, table in tables.items()) if table.rows
        ],
        "notes": [told(note) for note in (*card.notes, *([card.learning] if card.learning else []))],
        "next_steps": [{"command": step.command, "reason": told(step.reason)} for step in card.next_steps],
    }  # fmt: skip
