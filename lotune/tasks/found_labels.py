"""Find the labels of a task in its training rows where the settings do not list them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from lotune.errors import DataError
from lotune.tasks.columns import MAX_LABELS, SAMPLE
from lotune.tasks.registry import build_task
from lotune.tasks.sentence_classification import DEFAULT_LABELS
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Row
from lotune.tasks.user_rows import label_order, text_or_empty


def with_found_labels(settings: TaskSettings, path: Path | None, max_row_bytes: int) -> TaskSettings:
    """Return the settings with the labels of a file of training rows, each its own word, unless they list labels.

    Labels that are 0 and 1 need no list. Raises: DataError for a file with too many different labels.
    """
    field = settings.unlisted_labels
    if not field or path is None:
        return settings
    rows = (row for _, row in build_task(settings).read(path, "skip", max_row_bytes).rows)
    counts = _counted(islice(rows, SAMPLE), field)
    # All rows are read only if the first ones have words: a rare word may be missing from them.
    if not counts or set(counts) <= set(DEFAULT_LABELS):
        return settings
    counts += _counted(rows, field)
    if len(counts) > MAX_LABELS:
        rare = ", ".join(label[:40] for label, _ in counts.most_common()[-3:])
        found = f"{len(counts):,} different labels, such as {rare}"
        remedy = "name the column of the labels in task.columns, or list them in task.labels"
        raise DataError(str(path), found, f"at most {MAX_LABELS}", remedy)
    labels = {label: label for label in sorted(counts, key=label_order)}
    return settings.model_copy(update={"labels": labels})


def _counted(rows: Iterable[Row], field: str) -> Counter[str]:
    """Return how often each label occurs."""
    counts = Counter(text_or_empty(row.get(field if field in row else "output")).strip() for row in rows)
    del counts[""]
    return counts
