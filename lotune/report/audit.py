"""An audit as lines of text: figures side by side, ratios, what explains a number, contradictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lotune.evaluate.adapter_layout import kind_of
from lotune.evaluate.audit import Audit, Figures
from lotune.evaluate.explanations import Explanation
from lotune.evaluate.merged_difference import MOST_TOLD, TensorDifference

SOURCES = {"catalogue": "from the catalogue", "config.json": "from its config.json", "transformers": "by transformers"}


def audit_lines(audit: Audit) -> list[str]:
    """Return an audit in lines for a terminal."""
    return [
        *_heads(audit),
        *_table(_figure_rows(audit)),
        *_table(_ratio_rows(audit)),
        *_differences(audit.differences),
        *(line for explanation in audit.explanations for line in _explanation(explanation)),
        *(f"note: {note}" for note in audit.notes),
        *(f"CONTRADICTION: {contradiction}" for contradiction in audit.contradictions),
        *([] if audit.contradictions or not _compares(audit) else ["no contradiction"]),
    ]


def _heads(audit: Audit) -> Iterator[str]:
    if audit.target:
        yield f"{audit.kind}: {audit.target}"
    base = audit.base
    yield (
        "base: unknown"
        if base is None
        else f"base: {base.name}, {base.parameters:,} parameters ({SOURCES[base.source]})"
    )


def _compares(audit: Audit) -> bool:
    """Return whether there were two things that could contradict each other."""
    shown = (audit.predicted, audit.measured, audit.claimed, audit.claimed_ratio)
    return sum(one is not None for one in shown) > 1


def _figure_rows(audit: Audit) -> list[list[str]]:
    rows = [("predicted", audit.predicted), ("measured", audit.measured), ("claimed", audit.claimed)]
    cells = [[name, *_cells(figures)] for name, figures in rows if figures is not None]
    return [["", "rank", "layers", "modules", "parameters"], *cells] if cells else []


def _cells(figures: Figures) -> list[str]:
    ranks = "-" if figures.ranks is None else ", ".join(map(str, figures.ranks)) or "none"
    targets = "-" if figures.targets is None else ", ".join(figures.targets) or "none"
    return [ranks, targets, _number(figures.modules), _number(figures.parameters)]


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _ratio_rows(audit: Audit) -> list[list[str]]:
    names = [name for name in ("predicted", "measured", "claimed") if any(_of(one, name) for one in audit.ratios)]
    if not names and audit.claimed_ratio is None:
        return []
    rows = [["ratio by score.base_total", "of", *names]]
    for one in audit.ratios:
        values = ["-" if (value := _of(one, name)) is None else f"{value:.9g}" for name in names]
        rows.append([one.convention, f"{one.total:,}", *values])
        if one.fits_claimed_ratio is not None:
            verdict = "this is the claimed ratio" if one.fits_claimed_ratio else f"claimed: {audit.claimed_ratio}"
            rows[-1].append(verdict)
    return rows


def _of(ratio: object, name: str) -> float | None:
    value: float | None = getattr(ratio, name)
    return value


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table in columns."""
    columns = max(map(len, rows), default=0)
    padded = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in padded) for column in range(columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in padded]


def _differences(differences: Sequence[TensorDifference]) -> Iterator[str]:
    """Yield what changed in a merged model, the layers of a kind with equal findings in one line."""
    groups = Counter((kind_of(one.name), _rank_of(one)) for one in differences)
    for (kind, finding), count in groups.items():
        yield f"changed: {kind} ({count} {'tensor' if count == 1 else 'tensors'}): {finding}"


def _rank_of(one: TensorDifference) -> str:
    if one.largest is None:
        return "another shape"
    if one.rank is None or one.at_most is None:
        return "no matrix, so without a rank"
    if one.is_told:
        return f"rank {one.rank}"
    if one.rank >= MOST_TOLD:
        return f"rank {one.rank} or more"
    seen = f"rank {one.rank} or more" if one.rank else "no larger than rounding"
    return f"{seen}; the rank cannot be told in {one.precision}"


def _explanation(explanation: Explanation) -> Iterator[str]:
    head = f"{explanation.parameters} parameters ({explanation.of})"
    if not explanation.configurations:
        yield f"{head}: no rank on all layers of any kinds has so many"
        return
    yield f"{head} are"
    for rank in dict.fromkeys(one.rank for one in explanation.configurations):
        sets = ["+".join(one.targets) for one in explanation.configurations if one.rank == rank]
        yield f"  rank {rank} on {' or '.join(sets)}"
    if explanation.more:
        yield f"  and {explanation.more} other configurations"
