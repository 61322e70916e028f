"""The exam's hand-in of a finished run: the prepared rows, the tuned adapter, and the answers to the first rows."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import orjson

from lotune.console import print_status
from lotune.contest.exam_files import ExamFiles, ExamSettings
from lotune.data.token_files import TokenFile
from lotune.errors import SettingsError
from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import Scorecard
from lotune.files import to_json, write_atomically
from lotune.recipe import Recipe, read_recipe
from lotune.stages.model_loading import load_for_generation, resolve_weights, with_resolved_dtype
from lotune.stages.predictions import PredictionJob, answers_fingerprint, run_predictions_unbatched
from lotune.stages.prompt_template import build_prompted_task, resolve_auto, with_stored_template
from lotune.tasks.task import Labelling, Row, Task


@runtime_checkable
class LabellingTask(Labelling, Task, Protocol):
    """A task that gives texts a label."""


def exam_task(recipe: Recipe) -> LabellingTask:
    """Return the task of an exam's recipe.

    Raises: SettingsError unless the task gives labels, the training rows are a file, and words are one to a label.
    """
    task = build_prompted_task(recipe.task, recipe.base)
    if not isinstance(task, LabellingTask):
        raise SettingsError("exam", f"the task {task.name} gives no labels", "a task with labels", "set task.name")
    if recipe.data.train is None:
        raise SettingsError("data.train", "is not set", "the exam's file of training rows")
    if len(set(task.labels.values())) < len(task.labels):
        raise SettingsError("task.labels", "two labels have the same word", "a word for each label")
    return task


def write_exam(recipe: Recipe, settings: ExamSettings, card: Scorecard) -> None:
    """Write the hand-in of a finished run: pre_data, saved_model and the answers of the chosen checkpoint."""
    recipe = read_recipe(recipe.folder / "recipe.yaml")  # with the labels that were found in the rows
    task, files = exam_task(recipe), settings.files
    adapter = recipe.folder / "checkpoints" / card.chosen_checkpoint / "adapter"
    rows = _used_rows(recipe, task)
    asked = list(islice(task.read(settings.dev, max_row_bytes=recipe.data.max_row_bytes).rows, settings.answers))
    _write_rows(files.train, (_prepared(task, id, row) for id, row in rows))
    _write_rows(files.dev, (_prepared(task, id, row, labelled=False) for id, row in asked))
    _copy_folder(adapter, files.saved_model)
    answers = _answers(recipe, settings, str(adapter), asked)
    _write_labels(files, task, answers, majority=_majority(task, rows))


def _used_rows(recipe: Recipe, task: LabellingTask) -> list[tuple[str, Row]]:
    """Return the rows of the training file that the run trained on or set aside, in the order of the file."""
    folder = recipe.folder / "data"
    tokens = TokenFile(folder / "train")
    used = set(tokens.ids(range(len(tokens) - tokens.replayed)))
    for name in ("validation", "test"):
        used |= {str(orjson.loads(line)["id"]) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()}
    assert recipe.data.train is not None  # of an exam's task
    rows = task.read(recipe.data.train, recipe.data.on_error, recipe.data.max_row_bytes).rows
    return [(id, row) for id, row in rows if id in used]


def _prepared(task: LabellingTask, id: str, row: Row, labelled: bool = True) -> dict[str, str]:
    instruction, text, label = task.parse_row(id, row)
    return {"instruction": instruction, "input": text, **({"output": label} if labelled else {})}


def _write_rows(path: Path, rows: Iterator[dict[str, str]]) -> None:
    """Write rows as a json list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = list(rows)
    write_atomically(path, to_json(written, orjson.OPT_INDENT_2) + b"\n")
    print_status(f"{len(written):,} rows in {path}")


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a place where an earlier copy may stand."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    print_status(f"adapter in {target}")


def _answers(recipe: Recipe, settings: ExamSettings, adapter: str, rows: Sequence[tuple[str, Row]]) -> list[Prediction]:
    """Return the adapter's answers to rows, one row at a time, as the exam asks for."""
    weights, _ = resolve_weights(recipe, adapter)
    asking = resolve_auto(with_stored_template(recipe.task, adapter, False), weights)
    task = build_prompted_task(asking, weights)
    examples = list(task.examples(rows, training=False))
    recipe = with_resolved_dtype(recipe, adapter)
    fingerprint = answers_fingerprint(recipe, adapter, asking, data=settings.dev)
    title, tokens = f"exam, {settings.name}", recipe.evaluate.max_batch_tokens
    job = PredictionJob(title, load_for_generation(recipe, adapter), tokens, (), fingerprint)
    out = recipe.folder / "exam" / f"{settings.name}.jsonl"
    out.parent.mkdir(exist_ok=True)
    return run_predictions_unbatched(job, task, examples, out)


def _majority(task: LabellingTask, rows: Sequence[tuple[str, Row]]) -> str:
    """Return the most frequent label of rows."""
    return Counter(task.parse_row(id, row)[2] for id, row in rows).most_common(1)[0][0]


def _write_labels(files: ExamFiles, task: LabellingTask, answers: Sequence[Prediction], majority: str) -> None:
    """Write the label of each answer in a line of its own; an answer without one gets the majority label."""
    label_of: dict[Any, str] = {word: label for label, word in task.labels.items()}
    labels = [label_of.get(answer.score.extracted) for answer in answers]
    write_atomically(files.result, "".join(f"{label or majority}\n" for label in labels))
    unclear = f"; {labels.count(None)} answers had no label and count as {majority}" if None in labels else ""
    print_status(f"{len(labels):,} answers in {files.result}{unclear}")
