"""`lotune init`: a first recipe for a file of rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.examples import Example
from lotune.data.rows import remedy_for, summarise_malformed
from lotune.data.tokenized import encode_row, render_supervision
from lotune.data.tokenizer_training import LightTokenizer
from lotune.errors import DataError
from lotune.files import write_atomically
from lotune.model.loading import base_folder
from lotune.model.settings import BaseSettings
from lotune.recipe import RunOptions
from lotune.stages.output_files import check_new, refuse_overwriting_inputs
from lotune.tasks.recognition import settings_of
from lotune.tasks.registry import build_task
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Row, Task

MAX_COUNTED_ROWS = 20_000
"""Number of rows whose categories `init` counts."""
SMALL_FILE_ROWS = 1_000
"""Number of rows up to which `init` counts distinct prompts."""


def init(file: Path, out: Path | None, force: bool, options: RunOptions) -> dict[str, Any]:
    """Write a first recipe for a file of rows, and show three of them as they would be trained on.

    Raises: DataError if no task reads such rows; SettingsError if the recipe would overwrite the rows, or exists
    already and `force` is not given.
    """
    settings = settings_of(file)
    target = out or Path(f"{file.resolve().name if file.is_dir() else file.stem}.yaml")
    refuse_overwriting_inputs(target, file)
    check_new(target, force)
    task = build_task(settings)
    if "scorer" in type(settings).model_fields:
        settings = settings.model_copy(update={"scorer": task.scorer})
    read = task.read(file, on_error="skip")
    rows, malformed = read.rows, read.malformed
    if malformed:
        print_status(f"{len(malformed)} rows cannot be read: {summarise_malformed(malformed)}; {remedy_for(malformed)}")
    tokenizer = _nano_tokenizer()
    shown = _usable(task, rows, 3)
    for example in shown:
        print_status(f"--- {example.id}\n{render_supervision(tokenizer, encode_row(tokenizer, example))}")
    write_atomically(target, _recipe_text(settings, file, _num_distinct(task, rows)))
    kinds = _kinds(task, rows)
    judge = f"judged by {task.scorer}, " if task.scorer else ""
    of_kinds = f", of {kinds} kinds" if kinds > 1 else ""
    print_status(f"{len(rows)} rows of {task.name}{of_kinds}; {judge}measured in {task.metric}")
    columns = settings.columns if isinstance(settings, RowSettings) else {}
    if columns:
        print_status("columns: " + ", ".join(f"{field}: {name!r}" for field, name in columns.items()))
    print_status(f"of the {len(shown)} above, what is trained on stands between ⟦ and ⟧")
    print_status(
        "nano only shows how lotune works; for your own data set base.model to a real model, such as Qwen/Qwen2.5-0.5B"
    )
    print_status(f"recipe written: lotune run {shlex.quote(str(target))}")
    counts = {"rows": len(rows), "malformed": len(malformed)}
    judged = {"scorer": task.scorer, "metric": task.metric}
    return {"task": task.name, "columns": columns, **judged, "kinds": kinds, **counts, "recipe": str(target)}


def _nano_tokenizer() -> LightTokenizer:
    folder = base_folder(BaseSettings())
    assert folder is not None  # nano is part of the package
    return LightTokenizer(folder)


def _usable(task: Task, rows: Sequence[tuple[str, Row]], number: int) -> list[Example]:
    """Return the first examples that can be trained on.

    Raises: DataError of the first row if there is none; it suggests `lotune generate` for rows without references.
    """
    examples: list[Example] = []
    faults: list[DataError] = []
    for row in rows:
        try:
            examples += task.examples([row], training=True)
        except DataError as error:
            faults.append(error)
        if len(examples) >= number:
            break
    if not examples:
        fault = faults[0]
        without_keys = f"`lotune generate --task {task.name}` answers rows without keys"
        remedies = [fault.remedy, without_keys if "to train on" in fault.found else ""]
        raise DataError(fault.where, fault.found, fault.expected, "; ".join(filter(None, remedies)))
    return examples[:number]


def _kinds(task: Task, rows: Sequence[tuple[str, Row]]) -> int:
    """Return the number of categories in the first MAX_COUNTED_ROWS rows."""
    categories = set()
    for row in islice(rows, MAX_COUNTED_ROWS):
        with suppress(DataError):
            categories |= {example.category for example in task.examples([row], training=False)}
    return len(categories - {""})


def _num_distinct(task: Task, rows: Sequence[tuple[str, Row]]) -> int:
    """Return the number of distinct prompts to train on, or the number of rows if there are many."""
    # Of a small file, a few duplicates decide whether the checkpoints fit; of a large one, counting only costs time.
    if len(rows) > SMALL_FILE_ROWS:
        return len(rows)
    prompts = set()
    for row in rows:
        with suppress(DataError):
            prompts |= {example.prompt for example in task.examples([row], training=True)}
    return min(len(prompts), len(rows))


REAL_MODEL = """\
# nano only shows how lotune works. For your own data set base.model to a real model: a name on the Hugging Face hub,
# such as Qwen/Qwen2.5-0.5B, or a local folder.
"""


def _recipe_text(settings: TaskSettings, file: Path, rows: int) -> str:
    """Return the recipe as YAML: a tenth of a small file validates, and a fifth tests."""
    import yaml

    validation, test = max(1, min(50, rows // 10)), max(1, min(100, rows // 5))
    recipe: dict[str, Any] = {
        "base": {"model": "nano"},
        "task": {"name": settings.name, **settings.model_dump(exclude_defaults=True)},
        "data": {
            "train": str(file),
            "validation_rows": validation,
            "test_rows": test,
        },
    }
    header = f"# Tune nano on {file.name}. `lotune run --help` lists every setting.\n{REAL_MODEL}"
    return header + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000)
