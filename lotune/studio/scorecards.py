"""The scorecard of a run in the words and digits of its report, as tables for a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lotune.studio.errors import CallError


def scorecard_tables(folder: Path) -> dict[str, Any]:
    """Return headline, key figures, tables and notes of a run's scorecard.

    Raises: CallError for a run without one; RunError for one that cannot be read.
    """
    # Imported for the first result that somebody looks at: the first page must not wait for them.
    from lotune.evaluate.scorecard import read_scorecard
    from lotune.report import sections

    file = folder / "scorecard.json"
    if not file.is_file():
        raise CallError(409, "not_finished", "this run has no scorecard yet")
    card = read_scorecard(file)
    tables = {
        "kinds": sections.kinds_table(card.target), "kept": sections.retention_table(card.retention),
        "checkpoints": sections.checkpoints_table(card), "checks": sections.checks_table(card),
        "claims": sections.claims_table(card),
    }  # fmt: skip
    notes = {"kinds": sections.kinds_note(card.target), "kept": sections.RETENTION_NOTE,
             "checkpoints": sections.checkpoints_note(card)}  # fmt: skip
    return {
        "valid": card.valid, "headline": sections.verdict_headline(card), "reasons": card.reasons,
        "figures": [figure._asdict() for figure in sections.key_figures(card)],
        "tables": [
            {"name": name, "title": sections.SECTIONS.get(name, name.capitalize()), "head": table.head,
             "rows": table.rows, "numeric": table.numeric, "note": notes.get(name, "")}
            for name, table in tables.items() if table.rows
        ],
        "notes": [*card.notes, *([card.learning] if card.learning else [])],
        "next_steps": [{"command": step.command, "reason": step.reason} for step in card.next_steps],
    }  # fmt: skip
