"""`lotune grade exam`: mark the folder of an exam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lotune.contest.exam import DATASETS, DatasetMarks, Part, mark_dataset
from lotune.errors import DataError
from lotune.recipe import RunOptions
from lotune.report.terminal import percent
from lotune.text_display import print_visible


def grade_exam(folder: Path, keys: Mapping[str, Path], options: RunOptions) -> dict[str, Any]:
    """Return the marks of each data set that has a key, with reasons, and their mean.

    Raises: DataError for a key that is no file of labels, or a folder that is missing.
    """
    if not folder.is_dir():
        raise DataError(str(folder), "is no folder", "the folder with pre_data, saved_model and the results")
    marked = [mark_dataset(folder, dataset, key) for dataset, key in keys.items()]
    mean = sum(one.total for one in marked) / len(marked)
    if not options.json:
        for one in marked:
            _show(one)
        named = " and ".join(one.dataset for one in marked)
        missing = [dataset for dataset in DATASETS if dataset not in keys]
        print_visible(f"mean over {named}: {mean:.2f} of 100{f' (no key for {missing[0]})' if missing else ''}")
    return {"datasets": {one.dataset: {**asdict(one), "total": one.total} for one in marked}, "mean": mean}


def _show(one: DatasetMarks) -> None:
    print_visible(f"{one.dataset}: {one.total:.2f} of 100")
    parts: dict[str, Part] = {"prepared data": one.data, "saved model": one.model, "answers": one.answers}
    for name, part in parts.items():
        print_visible(f"  {name}: {part.marks:.2f} of {part.at_most}: {'; '.join(part.reasons)}")
    print_visible(f"  accuracy {percent(one.accuracy, 2)}, beside it {one.beside_name} {one.beside:.4f}")
