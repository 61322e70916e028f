"""Score the checkpoints' answers to the validation rows, and choose the best checkpoint.

The training stores the answers of each checkpoint. A new scorer scores them again. If they are missing or have another
protocol, the checkpoint generates them again. No weight changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lotune.console import print_status
from lotune.evaluate.learning import CheckpointScores, learning_course
from lotune.evaluate.measured_retention import measure_retention
from lotune.evaluate.metric_intervals import primary_metric_interval
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import gate_passed, min_retained
from lotune.evaluate.statistics import standard_error
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.files import read_json, write_json
from lotune.memory import release_memory
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.abilities import abilities_of
from lotune.stages.dependencies import stage_inputs
from lotune.stages.model_loading import resolve_answer_dtype
from lotune.stages.own_answers import OWN_ANSWERS
from lotune.stages.predictions import PredictionJob, run_predictions
from lotune.stages.validation_rows import (
    ANSWERS,
    BASE,
    ValidationRows,
    retention_validation_rows,
    task_validation_rows,
)
from lotune.tasks.metrics import goodness
from lotune.tasks.task import Score, Task


@dataclass(frozen=True)
class CheckpointResult:
    """Result of a checkpoint on the validation rows: the task's metric with its interval, and the references' loss.

    `retained` is the smallest fraction of the base's scores that the gated retention metrics have, with its interval;
    it and `gate_passed` are None if no retention rows are watched. An interval is None if it cannot be estimated.
    """

    name: str
    step: int
    value: float
    loss: float
    interval: tuple[float, float] | None = None
    retained: float | None = None
    retained_interval: tuple[float, float] | None = None
    gate_passed: bool | None = None


def ensure_validated(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Return training.json with the figures of each checkpoint and the chosen one; score again if an input changed."""
    path, training = run.folder / "validation.json", run.folder / "training.json"
    names = ["validation", *(one.validation_set for one in abilities_of(recipe))]
    if (run.folder / "data" / f"{OWN_ANSWERS}.jsonl").exists():  # earlier versions wrote none
        names.append(OWN_ANSWERS)
    files = {f"{name}.rows": run.folder / "data" / f"{name}.jsonl" for name in names}
    inputs = {**stage_inputs(recipe, "validate"), "training": training, **files}
    if run.stage_state("validate", inputs) != "done" or not path.exists():
        # Before the stage is invalidated: only its record tells edited answers from those that lotune wrote.
        for altered in run.altered(["validate"]):
            if altered.startswith(f"{ANSWERS}/"):
                (run.folder / altered).unlink(missing_ok=True)
        run.invalidate_stage("validate")
        write_json(path, validate(run, recipe, read_json(training)))
        release_memory()
        run.mark_stage_done("validate", inputs, [path, *(run.folder / ANSWERS).rglob("*.jsonl")])
    validated: dict[str, Any] = read_json(path)
    return validated


def validate(run: Run, recipe: Recipe, trained: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a training with the figures of each checkpoint and the chosen one.

    Stored answers are scored; a checkpoint without them answers the validation rows again.
    """
    rows, watched = task_validation_rows(recipe), retention_validation_rows(recipe)
    base = [stored_answers(run, recipe, retained, BASE) for retained in watched]
    if rows.file(BASE).exists():  # shown beside those of the checkpoints; earlier versions wrote none
        stored_answers(run, recipe, rows.first(), BASE)
    results, scores = [], {}
    for checkpoint in trained["checkpoints"]:
        name = checkpoint["name"]
        answers = stored_answers(run, recipe, rows, name)
        result = checkpoint_result(name, checkpoint["step"], checkpoint["loss"], rows.task, answers)
        if watched:
            tuned = [stored_answers(run, recipe, retained, name) for retained in watched]
            result = with_retention(result, recipe, watched, base, tuned)
        results.append(result)
        scores[name] = [answer.score for answer in answers]
    chosen = choose_checkpoint(results, rows.task, scores)
    print_status(f"chosen on validation: {describe(chosen, rows.task.metric)}")
    if chosen.gate_passed is False:
        print_status(f"no checkpoint retains {recipe.retention.min_retained:.0%} of the base on the validation rows")
    checkpoints = [CheckpointScores(result.step, result.loss, _scored(scores[result.name])) for result in results]
    course = learning_course(rows.task, checkpoints)
    return {
        **trained,
        "learning": None if course is None else asdict(course),
        "checkpoints": [asdict(result) for result in results],
        "chosen": chosen.name,
        "repair_start": repair_start(results, chosen, rows.task, scores),
        "metric": rows.task.metric,
    }


def _scored(scores: Sequence[Score]) -> list[ScoredExample]:
    # The scores of all checkpoints are in the order of the validation rows.
    return [ScoredExample(str(row), "", score) for row, score in enumerate(scores)]


def describe(result: CheckpointResult, metric: str) -> str:
    """Return the figures of a checkpoint in one line.

    >>> describe(CheckpointResult("step-000010", 10, 0.75, 0.5, retained=0.96, gate_passed=True), "accuracy")
    'step-000010 (accuracy 0.75, retains 96.0 % of the base)'
    """
    retained = "" if result.retained is None else f", retains {100 * result.retained:.1f} % of the base"
    return f"{result.name} ({metric} {result.value:.4g}{retained})"


def checkpoint_result(name: str, step: int, loss: float, task: Task, answers: list[Prediction]) -> CheckpointResult:
    """Return the figures of a checkpoint from its answers to the validation rows."""
    scores = [answer.score for answer in answers]
    interval = primary_metric_interval(task, scores)
    limits = None if interval is None else (interval.low, interval.high)
    return CheckpointResult(name, step, task.metrics(scores)[task.metric], loss, limits)


def with_retention(
    result: CheckpointResult,
    recipe: Recipe,
    watched: Sequence[ValidationRows],
    base: Sequence[list[Prediction]],
    tuned: Sequence[list[Prediction]],
) -> CheckpointResult:
    """Return the figures of a checkpoint with those of the retention gate, from the answers of base and checkpoint.

    Both have answered the rows of each ability that is watched.
    """
    metrics = [
        metric
        for rows, before, after in zip(watched, base, tuned, strict=True)
        if rows.ability is not None
        for metric in measure_retention(rows.task, rows.ability, recipe.retention.min_retained, before, after)
    ]
    retained = min_retained(metrics)
    interval = next((m.retained_interval for m in metrics if m.is_gated and m.retained == retained), None)
    limits = None if interval is None else (interval.low, interval.high)
    return replace(result, retained=retained, retained_interval=limits, gate_passed=gate_passed(metrics))


def best_checkpoint(results: Sequence[CheckpointResult], metric: str = "accuracy") -> CheckpointResult:
    """Return the checkpoint with the best value of the validation metric; the lower loss breaks ties.

    >>> best_checkpoint([CheckpointResult("a", 1, 0.5, 1.0), CheckpointResult("b", 2, 0.5, 0.9)]).name
    'b'
    >>> best_checkpoint([CheckpointResult("a", 1, 1.5, 1.0), CheckpointResult("b", 2, 1.4, 1.1)], "bits_per_byte").name
    'b'
    """
    return max(results, key=lambda result: (goodness(metric, result.value), -result.loss))


def choose_checkpoint(
    results: Sequence[CheckpointResult], task: Task, scores: Mapping[str, Sequence[Score]]
) -> CheckpointResult:
    """Return the best checkpoint among those that pass the retention gate, or among all if none passes.

    Of the checkpoints within one standard error of the best one, those count that retain most, again within one
    standard error; the best of these is returned. `scores` maps the name of each checkpoint to its scores on the same
    validation rows. Source: the one-standard-error rule of Breiman et al. (Classification and Regression Trees, 1984),
    here with the standard error of the paired difference for the task's metric.
    """
    passing = [result for result in results if result.gate_passed] or results
    best = best_checkpoint(passing, task.metric)
    if best.retained is None:
        return best
    near = [best, *(result for result in passing if _within_error(task, scores[result.name], scores[best.name]))]
    most = max(near, key=lambda result: result.retained or 0.0)
    enough = (most.retained or 0.0) - standard_error(most.retained_interval)
    return best_checkpoint([result for result in near if (result.retained or 0.0) >= enough], task.metric)


def repair_start(
    results: Sequence[CheckpointResult], chosen: CheckpointResult, task: Task, scores: Mapping[str, Sequence[Score]]
) -> str | None:
    """Return the checkpoint from which a repair would go on; None if the gate costs nothing, or cannot be measured.

    That is the one that would be chosen without the gate, if it fails the gate and no checkpoint passes, or if it is
    better than the chosen one beyond chance (one-sided paired test at 5 %).
    """
    ungated = choose_checkpoint([replace(result, gate_passed=None) for result in results], task, scores)
    gated = next(result for result in results if result.name == ungated.name)
    if gated.gate_passed is not False or gated.retained is None:
        return None
    if not chosen.gate_passed:
        return gated.name
    return gated.name if measure_target(task, *map(_scored, (scores[chosen.name], scores[gated.name]))).better else None


def _within_error(task: Task, scores: Sequence[Score], best: Sequence[Score]) -> bool:
    """Return whether the mean difference of two models on the same rows is within its standard error."""
    name = task.score_name_by_metric.get(task.metric)

    def value(score: Score) -> float | None:
        return score.correct if name is None else score.scores.get(name)

    pairs = [(value(a), value(b)) for a, b in zip(scores, best, strict=True)]
    differences = [float(b) - float(a) for a, b in pairs if a is not None and b is not None]
    if len(differences) < 2:
        return False
    return abs(mean(differences)) <= stdev(differences) / math.sqrt(len(differences))


def stored_answers(run: Run, recipe: Recipe, rows: ValidationRows, name: str) -> list[Prediction]:
    """Return the stored answers of a checkpoint or of the base; answer again if some are missing or of another kind."""
    stored = rows.stored(recipe, name)
    return _answer_again(run, recipe, rows, name) if stored is None else stored


def _answer_again(run: Run, recipe: Recipe, rows: ValidationRows, name: str) -> list[Prediction]:
    from lotune.model.checkpoints import load_adapter
    from lotune.model.quantization import load_dequantized

    base = load_dequantized(recipe.base, recipe.device, recipe.tune.quantization)
    model: Any = base.model
    if name != BASE:
        model = load_adapter(base, run.folder / "checkpoints" / name / "adapter")
    return answers_of(recipe, rows, name, model, base.tokenizer, rows.file(name))


def answers_of(
    recipe: Recipe, rows: ValidationRows, name: str, model: Any, tokenizer: Any, out: Path | None = None
) -> list[Prediction]:
    """Return a model's answers to validation rows, in the dtype of those during the training; append them to `out`."""
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.eval_mode import in_float32_for_now

    answering, facts = AnsweringModel(model, tokenizer), rows.facts(recipe)
    job = PredictionJob(
        f"validating {name}", answering, recipe.evaluate.max_batch_tokens, facts=facts,
        on_too_long=recipe.evaluate.on_too_long, references_only=True,
    )  # fmt: skip
    # As during the training: an answer given again must not differ because of the dtype.
    is_float32 = resolve_answer_dtype(recipe, recipe.base).dtype == "float32"
    with in_float32_for_now(model) if is_float32 else nullcontext():
        return run_predictions(job, rows.task, rows.examples, out)
