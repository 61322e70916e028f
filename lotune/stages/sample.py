"""`lotune sample`: rows of a task's generator, written to a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.rows import to_conversation, write_jsonl
from lotune.errors import SettingsError
from lotune.recipe import RunOptions
from lotune.stages.output_files import check_new
from lotune.tasks.registry import TASKS, build_task, task_settings
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Generating, OtherForms, Row, Task


def sample(
    settings: TaskSettings, rows: int, seed: int, out: Path, form: str, force: bool, options: RunOptions
) -> dict[str, Any]:
    """Write rows of a task's generator, in the task's format, as conversations, or in another form that the task has.

    Raises: SettingsError for another form, for a task without a generator, or if the file exists without `force`.
    """
    task = build_task(settings)
    forms = ("rows", "conversation", *(task.forms if isinstance(task, OtherForms) else ()))
    if form not in forms:
        raise SettingsError("--form", f"{task.name} has no form {form!r}", " or ".join(forms))
    check_new(out, force)
    if not isinstance(task, Generating):
        able = [name for name in TASKS if isinstance(build_task(task_settings(name)), Generating)]
        raise SettingsError("--task", f"the task {task.name} has no generator", " or ".join(able))
    _write_sample(task, task.generate_rows(rows, seed), out, form)
    print_status(f"wrote {rows} rows of {task.name} to {out}")
    return {"task": task.name, "rows": rows, "seed": seed, "form": form, "out": str(out)}


def _write_sample(task: Task, rows: Iterable[Row], out: Path, form: str) -> None:
    if form == "rows":
        task.write(out, rows)
        return
    if isinstance(task, OtherForms) and form in task.forms:
        write_jsonl(out, (written for row in rows for written in task.forms[form](row)))
        return
    pairs = ((str(number), row) for number, row in enumerate(rows, start=1))
    examples = task.examples(pairs, training=False)
    write_jsonl(out, (to_conversation(example.id, example.prompt, example.target) for example in examples))
