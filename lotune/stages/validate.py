"""Score the checkpoints' answers to the validation rows, and choose the best checkpoint.

The training stores the answers of each checkpoint. A new scorer scores them again. If they are missing or have another
protocol, the checkpoint generates them again. No weight changes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.examples import Example
from lotune.evaluate.facts import facts_of
from lotune.evaluate.metric_intervals import primary_metric_interval
from lotune.evaluate.predict import Prediction, keep_predictions, read_predictions
from lotune.files import read_json, write_json
from lotune.memory import release_memory
from lotune.recipe import Recipe
from lotune.record_files import write_records
from lotune.runs import Run
from lotune.stages.dependencies import stage_inputs
from lotune.stages.model_loading import resolve_answer_dtype
from lotune.stages.predictions import PredictionJob, run_predictions
from lotune.stages.prepare import read_examples
from lotune.tasks.metrics import goodness
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task

ANSWERS = "validation"
"""Folder of a run that holds each checkpoint's answers to the validation rows."""


@dataclass(frozen=True)
class CheckpointResult:
    """Result of a checkpoint on the validation rows: the task's metric with its interval, and the references' loss.

    The interval is None if it cannot be estimated.
    """

    name: str
    step: int
    value: float
    loss: float
    interval: tuple[float, float] | None = None


def ensure_validated(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Return training.json with the figures of each checkpoint and the chosen one; score again if an input changed."""
    path, training = run.folder / "tuning.json", run.folder / "training.json"
    rows = run.folder / "data" / "validation.jsonl"
    inputs = {**stage_inputs(recipe, "validate"), "training": training, "validation.rows": rows}
    if run.stage_state("validate", inputs) != "done":
        # Before the stage is invalidated: only its record tells edited answers from those that lotune wrote.
        for altered in run.altered(["validate"]):
            if altered.startswith(f"{ANSWERS}/"):
                (run.folder / altered).unlink(missing_ok=True)
        run.invalidate_stage("validate")
        trained, task, examples = read_json(training), build_task(recipe.task), read_examples(rows)
        results = [
            _validate_checkpoint(run, recipe, task, examples, checkpoint) for checkpoint in trained["checkpoints"]
        ]
        release_memory()
        chosen = best_checkpoint(results, task.metric)
        print_status(f"chosen on validation: {chosen.name} ({task.metric} {chosen.value:.4g})")
        figures = {"checkpoints": [asdict(result) for result in results], "chosen": chosen.name, "metric": task.metric}
        write_json(path, {**trained, **figures})
        run.mark_stage_done("validate", inputs, [path, *(run.folder / ANSWERS).glob("*.jsonl")])
    tuning: dict[str, Any] = read_json(path)
    return tuning


def checkpoint_result(name: str, step: int, loss: float, task: Task, answers: list[Prediction]) -> CheckpointResult:
    """Return the figures of a checkpoint from its answers to the validation rows."""
    scores = [answer.score for answer in answers]
    interval = primary_metric_interval(task, scores)
    limits = None if interval is None else (interval.low, interval.high)
    return CheckpointResult(name, step, task.metrics(scores)[task.metric], loss, limits)


def store_answers(folder: Path, recipe: Recipe, task: Task, name: str, answers: list[Prediction]) -> None:
    """Write a checkpoint's answers to the validation rows into a run folder."""
    facts = facts_of(recipe.task, task, on_too_long=recipe.evaluate.on_too_long)
    records = (replace(answer, facts=facts).record() for answer in answers)
    write_records(folder / ANSWERS / f"{name}.jsonl", records)


def best_checkpoint(results: list[CheckpointResult], metric: str = "accuracy") -> CheckpointResult:
    """Return the checkpoint with the best value of the validation metric; the lower loss breaks ties.

    >>> best_checkpoint([CheckpointResult("a", 1, 0.5, 1.0), CheckpointResult("b", 2, 0.5, 0.9)]).name
    'b'
    >>> best_checkpoint([CheckpointResult("a", 1, 1.5, 1.0), CheckpointResult("b", 2, 1.4, 1.1)], "bits_per_byte").name
    'b'
    """
    return max(results, key=lambda result: (goodness(metric, result.value), -result.loss))


def _validate_checkpoint(
    run: Run, recipe: Recipe, task: Task, examples: list[Example], checkpoint: dict[str, Any]
) -> CheckpointResult:
    name = checkpoint["name"]
    file = run.folder / ANSWERS / f"{name}.jsonl"
    facts = facts_of(recipe.task, task, on_too_long=recipe.evaluate.on_too_long)
    stored = read_predictions(file) if file.exists() else []
    # The scorer is the one fact that does not change an answer.
    if any(old.facts is None or replace(old.facts, scorer=facts.scorer) != facts for old in stored):
        file.unlink()
    scored = keep_predictions(task, examples, file, facts, references_only=True)
    if len(scored) == len(examples):
        answers = [scored[index] for index in range(len(examples))]
    else:
        answers = _answer_again(run, recipe, task, examples, name, file)
    return checkpoint_result(name, checkpoint["step"], checkpoint["loss"], task, answers)


def _answer_again(
    run: Run, recipe: Recipe, task: Task, examples: list[Example], name: str, file: Path
) -> list[Prediction]:
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.checkpoints import load_adapter
    from lotune.model.eval_mode import in_float32_for_now
    from lotune.model.quantization import load_dequantized

    base = load_dequantized(recipe.base, recipe.device, recipe.tune.quantization)
    model = load_adapter(base, run.folder / "checkpoints" / name / "adapter")
    facts = facts_of(recipe.task, task, on_too_long=recipe.evaluate.on_too_long)
    title, on_too_long = f"validating {name}", recipe.evaluate.on_too_long
    answering = AnsweringModel(model, base.tokenizer)
    job = PredictionJob(
        title, answering, recipe.evaluate.max_batch_tokens, facts=facts, on_too_long=on_too_long, references_only=True
    )
    # As during the training: an answer given again must not differ because of the dtype.
    is_float32 = resolve_answer_dtype(recipe, recipe.base).dtype == "float32"
    with in_float32_for_now(model) if is_float32 else nullcontext():
        return run_predictions(job, task, examples, file)
