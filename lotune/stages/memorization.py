"""`lotune study memorization`: how well a model answers questions that it was tuned on, and others, as it is tuned on.

Each checkpoint of a run answers some of its training rows and of its test rows, at several temperatures. A model that
has learnt its rows by heart answers the first right at any temperature, and the others no better than before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.data.examples import Example
from lotune.errors import SettingsError
from lotune.files import read_json, write_atomically, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.recipe import Recipe, RunOptions
from lotune.report.canvas import Point
from lotune.report.html import svg_file
from lotune.report.plots import WIDE, memorization_plot
from lotune.runs import Run
from lotune.stages.answered_sets import tuned_model
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.predictions import PredictionJob, run_predictions
from lotune.stages.prepare import ensure_prepared, open_prepared_run, read_examples, training_examples
from lotune.stages.tune import ensure_tuned
from lotune.stages.tuning import TRAINING_FILE
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task
from lotune.text_display import print_visible

if TYPE_CHECKING:
    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.sampling import Sampling

FOLDER = "memorization"
"""Folder of a run that holds the answers and the results of the study."""
PARTS = ("seen", "unseen")
"""Rows of the training, and rows of the test."""


@dataclass(frozen=True)
class StudyOptions:
    """The size of a study: rows of each part, and the temperatures of the answers, 0 for the greedy one."""

    rows: int
    temperatures: Sequence[float]


def study_memorization(recipe: Recipe, study: StudyOptions, options: RunOptions) -> dict[str, Any]:
    """Tune a recipe unless that is done, ask its checkpoints, and return the metric of each.

    The folder `memorization` of the run gets results.json and memorization.svg. Answers that it has are not given
    again.

    Raises: SettingsError for a task that generates no answers, or a temperature outside its range.
    """
    from lotune.generate.sampling import Sampling

    task = build_task(recipe.task)
    if task.chooses_by_likelihood or not task.generates_answers or task.scores_references:
        found, remedy = f"{task.name} by {task.metric} compares no generated answers", "task.scorer=rouge-l"
        raise SettingsError("study memorization", found, "a task whose answers are generated", remedy)
    samplings = [Sampling(temperature, seed=recipe.seed) for temperature in study.temperatures]
    with open_prepared_run(recipe, options) as (run, recipe):
        ensure_prepared(run, recipe)
        ensure_tuned(run, recipe, options)
        recipe = with_stored_settings(recipe, run.folder)
        points = list(_points(run, recipe, task, study.rows, samplings))
        folder = run.folder / FOLDER
        result = {"task": task.name, "metric": task.metric, "points": points}
        write_json(folder / "results.json", result)
        picture = memorization_plot(_curves(points), task.metric, WIDE, percent=not task.score_name_by_metric)
        write_atomically(folder / "memorization.svg", svg_file(picture))
        if not options.json:
            print_visible("\n".join(_lines(points, task.metric)))
        print_status(f"picture: {folder / 'memorization.svg'}")
        return result


def _points(run: Run, recipe: Recipe, task: Task, rows: int, samplings: Sequence[Sampling]) -> Iterator[dict[str, Any]]:
    from lotune.generate.answering_model import AnsweringModel

    training = read_json(run.folder / TRAINING_FILE)
    epochs_of_step = _epochs(recipe, run) / training["planned_steps"]
    parts = _rows(run, recipe, rows)
    for checkpoint in training["checkpoints"]:
        model = tuned_model(run, recipe, checkpoint["name"])
        answering = AnsweringModel(model.model, model.tokenizer)
        for sampling in samplings:
            for part, examples in parts.items():
                value = _measure(run, recipe, task, answering, sampling, (checkpoint["name"], part), examples)
                yield {
                    "checkpoint": checkpoint["name"], "epochs": round(checkpoint["step"] * epochs_of_step, 3),
                    "temperature": sampling.temperature, "part": part, "rows": len(examples), "value": value,
                }  # fmt: skip


def _epochs(recipe: Recipe, run: Run) -> float:
    from lotune.data.token_files import TokenFile
    from lotune.stages.tuning_session import make_plan

    rows = TokenFile(run.folder / "data" / "train")
    plan = make_plan(recipe, len(rows), rows.replayed)
    return plan.steps * plan.step_rows / plan.pool.epoch_rows(len(rows))


def _rows(run: Run, recipe: Recipe, count: int) -> dict[str, list[Example]]:
    """Return the rows of each part, drawn by the seed of the recipe."""
    draw = random.Random(recipe.seed)
    rows = {"seen": list(training_examples(recipe)), "unseen": read_examples(run.folder / "data" / "test.jsonl")}
    return {part: draw.sample(examples, min(count, len(examples))) for part, examples in rows.items()}


def _measure(
    run: Run,
    recipe: Recipe,
    task: Task,
    answering: AnsweringModel,
    sampling: Sampling,
    name: tuple[str, str],
    examples: Sequence[Example],
) -> float:
    (checkpoint, part), temperature = name, sampling.temperature
    job = PredictionJob(
        f"{checkpoint}, {part}, temperature {temperature:g}",
        answering,
        recipe.evaluate.max_batch_tokens,
        sampling=sampling,
        on_too_long=recipe.evaluate.on_too_long,
    )
    inputs = {"adapter": run.folder / "checkpoints" / checkpoint / "adapter", "seed": recipe.seed}
    # Answers of another tuning, or to another prompt template, are of no use.
    origin = inputs_fingerprint({**inputs, "task": recipe.task.model_dump(exclude={"scorer"})})[:12]
    out = run.folder / FOLDER / f"{checkpoint}-{origin}-{part}-{temperature:g}.jsonl"
    out.parent.mkdir(exist_ok=True)
    answers = run_predictions(job, task, examples, out)
    return float(task.metrics([answer.score for answer in answers])[task.metric])


def _curves(points: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], list[Point]]:
    """Return the metric by epochs for each part and temperature."""
    curves: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        key = (point["part"], point["temperature"])
        curves.setdefault(key, []).append(Point(point["epochs"], point["value"]))
    return curves


def _lines(points: Sequence[Mapping[str, Any]], metric: str) -> Iterator[str]:
    """Yield the results as a table: a line for each checkpoint, a column for each part and temperature."""
    columns = list(dict.fromkeys((point["part"], point["temperature"]) for point in points))
    heads = [f"{part} at {temperature:g}" for part, temperature in columns]
    yield f"{metric} of questions seen in the training and of others, by temperature"
    yield "  ".join([f"{'epochs':>8}", *(f"{head:>14}" for head in heads)])
    for epochs in dict.fromkeys(point["epochs"] for point in points):
        values = {(p["part"], p["temperature"]): p["value"] for p in points if p["epochs"] == epochs}
        yield "  ".join([f"{epochs:8.2f}", *(f"{values[column]:14.3f}" for column in columns)])
