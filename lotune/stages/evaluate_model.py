"""`lotune evaluate --model`: one model on the rows of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from random import Random
from typing import Any

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.examples import Example
from lotune.distributed import ProcessGroup, init_process_group, raise_on_lost_process
from lotune.errors import DataError, SettingsError
from lotune.evaluate.batching_effect import measure_batching_effect, sample_unbatched_rows, widen, widen_target
from lotune.evaluate.facts import facts_of
from lotune.evaluate.few_shot import SHOT_SEPARATOR, add_few_shot
from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import BatchingEffect, EvaluationSetCounts, evaluation_set_notes
from lotune.evaluate.statistics import Interval
from lotune.model.loading import resolve_device
from lotune.recipe import Recipe, RunOptions
from lotune.report.terminal import format_limits
from lotune.stages.model_loading import (
    check_engine,
    device_and_dtype,
    folders_of,
    load_for_generation,
    resolve_weights,
    with_resolved_dtype,
)
from lotune.stages.output_files import check_fingerprints, refuse_overwriting_inputs
from lotune.stages.predictions import (
    PredictionJob,
    answers_fingerprint,
    run_predictions_distributed,
    run_predictions_unbatched,
    with_long_prompt_counts,
)
from lotune.stages.prompt_template import build_prompted_task, resolve_auto, with_stored_template
from lotune.tasks.build_datasets import EvaluationSet, evaluation_rows, evaluation_set
from lotune.tasks.checks import require_fitting_scorer, require_references
from lotune.tasks.metrics import rouge_l
from lotune.tasks.task import Task
from lotune.tasks.user_rows import blame_setting
from lotune.text_display import print_visible


@dataclass(frozen=True)
class EvaluationData:
    """Rows to test a model on, from a file or generated: at most `limit`, each after `shots` few-shot examples.

    The few-shot examples are sampled from `shots_data`, or generated if it is None.
    """

    data: Path | None = None
    limit: int | None = None
    shots: int = 0
    shots_data: Path | None = None

    def inputs(self, seed: int) -> dict[str, Any]:
        """Return the settings of the few-shot examples that an answer depends on."""
        few_shot = {"shots": self.shots, "shots_data": self.shots_data, "seed": seed}
        return {name: value for name, value in few_shot.items() if value is not None} if self.shots else {}

    def read(self, task: Task, seed: int, max_row_bytes: int = MAX_ROW_BYTES) -> EvaluationSet:
        """Return the test rows.

        Raises: SettingsError if a file of rows has no `shots_data`; DataError without rows, or with too few examples.
        """
        with blame_setting("--data"):
            test_set = evaluation_set(task, self.data, self.limit, seed, max_row_bytes)
        if not self.shots:
            return test_set
        return replace(test_set, examples=self._after_shots(task, seed, test_set.examples, max_row_bytes))

    def _after_shots(self, task: Task, seed: int, examples: Sequence[Example], max_row_bytes: int) -> list[Example]:
        if self.data is not None and self.shots_data is None:
            raise SettingsError("--shots", "no file to take the examples from", "--shots-data FILE")
        prompts = {example.prompt for example in examples}
        # More rows than examples, as some of the generated rows may be test rows.
        generated = None if self.shots_data else 4 * self.shots
        rows = evaluation_rows(task, self.shots_data, generated, seed + SHOTS_SEED, max_row_bytes)
        candidates = [example for example in rows if example.prompt not in prompts]
        if len(candidates) < self.shots:
            where = str(self.shots_data or "--shots")
            raise DataError(where, f"has {len(candidates)} rows that are not test rows", f"{self.shots} of them")
        return add_few_shot(task, examples, Random(seed + SHOTS_SEED).sample(candidates, self.shots))


SHOTS_SEED = 9_000
"""Offset of the seed for the few-shot examples."""


def evaluate_model(
    recipe: Recipe, model: str, test: EvaluationData, out: Path | None, force: bool, options: RunOptions
) -> dict[str, Any] | None:
    """Return the metrics of one model on one task, each with its interval, and the main metric by category.

    Each of several processes under torchrun answers its part of the rows; the first one returns the figures, and the
    others return None.

    Raises: SettingsError if `out` is an input; DataError if no row has a reference.
    """
    weights, _ = resolve_weights(recipe, model)
    settings = resolve_auto(with_stored_template(recipe.task, model, force), weights)
    task = build_prompted_task(settings, weights)
    check_engine(recipe, task)
    refuse_overwriting_inputs(out, test.data, test.shots_data, *folders_of(recipe, model))
    tested = test.read(task, recipe.seed, recipe.data.max_row_bytes)
    examples = tested.examples
    require_references(task, settings, examples, test.data)
    require_fitting_scorer(task, examples)
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    recipe = with_resolved_dtype(recipe, model)
    title, batch_tokens, fingerprint = f"{model}, {task.name}", recipe.evaluate.max_batch_tokens, ""
    if out is not None:
        fingerprint = answers_fingerprint(recipe, model, settings, **test.inputs(recipe.seed))
        check_fingerprints(out, fingerprint)  # refused before the weights are loaded
    with init_process_group(resolve_device(recipe.device)) as world, raise_on_lost_process(world):
        answering = load_for_generation(recipe, model)
        on_too_long = recipe.evaluate.on_too_long
        stop, facts = (SHOT_SEPARATOR,) if test.shots else (), facts_of(settings, task, test.shots, on_too_long)
        job = PredictionJob(title, answering, batch_tokens, stop, fingerprint, facts=facts, on_too_long=on_too_long)
        predictions = run_predictions_distributed(job, task, examples, out, world)
        effect = _batching_effect(recipe, job, task, examples, predictions, world)
    if not world.is_main_process:
        return None
    file = test.data.name if test.data else ""
    rows = EvaluationSetCounts(name="test", rows=len(predictions), file=file, file_rows=tested.file_rows)
    figures = {
        "model": model, "task": task.name, **device_and_dtype(recipe, answering.model),
        **metric_figures(task, predictions, effect), "asked": with_long_prompt_counts(rows, predictions),
    }  # fmt: skip
    if not options.json:
        show_figures(figures)
    return figures


def _batching_effect(
    recipe: Recipe,
    job: PredictionJob,
    task: Task,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    world: ProcessGroup,
) -> BatchingEffect | None:
    """Return the effect of batching on some rows, in every process; None if the model answers in float32."""
    dtype = recipe.evaluate.dtype
    if dtype == "float32":
        return None
    unbatched_job, rows = replace(job, title=f"{job.title}, alone"), sample_unbatched_rows(examples, recipe.seed)
    return measure_batching_effect(
        predictions,
        run_predictions_distributed(unbatched_job, task, rows, None, world, run_predictions_unbatched),
        dtype,
    )


def metric_figures(task: Task, predictions: Sequence[Prediction], effect: BatchingEffect | None) -> dict[str, Any]:
    from lotune.evaluate.metric_intervals import metric_intervals
    from lotune.evaluate.target import ScoredExample, measure_target

    scored = [ScoredExample(row.example_id, row.category, row.score) for row in predictions]
    # One model stands for base and tuned model: only the tuned side of the target is read.
    target = measure_target(task, scored, scored)
    scores, changed = [row.score for row in predictions], effect.changed_verdict_fraction if effect else 0.0
    target = widen_target(target, changed, changed)
    intervals = {
        name: widen(
            interval,
            *(100 * changed, 0, 100) if name in task.score_name_by_metric else (changed, MIN_VALUES.get(name, 0)),
        )
        for name, interval in metric_intervals(task, scores).items()
    }
    by_kind = {
        name: {"n": kind.n, "value": kind.value, "interval": kind.interval} for name, kind in target.by_category.items()
    }
    return {
        "scorer": task.scorer, **({"rouge_l": ROUGE_L} if task.scorer == "rouge-l" else {}),
        "metrics": task.metrics(scores), "intervals": intervals, "interval": target.interval,
        "n": target.n, "unjudgeable": target.unjudgeable, "by_kind": by_kind,
        **({"asked_alone": effect.model_dump(include={"dtype", "rows", "texts", "verdicts"})} if effect else {}),
    }  # fmt: skip


MIN_VALUES = {"matthews": -1}
"""Lower bounds of metrics that can be negative."""
ROUGE_L = {
    "beta": signature(rouge_l).parameters["beta"].default,
    "segments": "lower-case words; single characters, spaces included, if a text has Chinese in it",
}
"""Parameters of the scorer rouge-l: the weight of recall against precision, and the segments that it compares."""


def show_figures(figures: dict[str, Any]) -> None:
    scorer = f", judged by {figures['scorer']}" if figures["scorer"] else ""
    if rouge := figures.get("rouge_l"):
        scorer += f" (beta {rouge['beta']:g}; {rouge['segments']})"
    print_visible(f"{figures['model']} on {figures['device']} in {figures['dtype']}: {figures['n']} rows{scorer}")
    for note in evaluation_set_notes([figures["asked"]]):
        print_visible(f"note: {note}")
    for name, value in figures["metrics"].items():
        interval = _interval_text(figures["intervals"][name]) if name in figures["intervals"] else ""
        print_visible(f"{name}: {value:.4g}{interval}")
    if "asked_alone" in figures:
        print_visible(BatchingEffect(**figures["asked_alone"]).describe())
    for kind, result in figures["by_kind"].items():
        shown = (
            "not judgeable" if result["value"] is None else f"{result['value']:.4g}{_interval_text(result['interval'])}"
        )
        print_visible(f"  {kind}: {shown}, {result['n']} rows")


def _interval_text(interval: Interval | None) -> str:
    return f" (95 % interval {format_limits(interval, '.4g')})"
