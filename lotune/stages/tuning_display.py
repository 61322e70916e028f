"""Run a tuning and show it: a line for each validation, and curves for TensorBoard."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.memory import release_memory
from lotune.recipe import Recipe, RunOptions
from lotune.report.terminal import format_limits
from lotune.runs import Run
from lotune.stages.tensorboard_curves import tensorboard_curves
from lotune.stages.tuning import Goal, tuning
from lotune.stages.validate import CheckpointResult
from lotune.tasks.registry import build_task

if TYPE_CHECKING:
    pass


def run_tuning(run: Run, recipe: Recipe, options: RunOptions, goal: Goal | None = None) -> dict[str, Any] | None:
    """Tune and show each record; return the estimate, or None if the tuning was done already."""
    from lotune.train.loop import Step
    from lotune.train.resource_estimate import Estimate

    forecast = None
    with (
        closing(tuning(run, recipe, options, goal)) as records,
        tensorboard_curves(run.folder, recipe.tune.tensorboard) as draw,
    ):
        for record in records:
            if isinstance(record, Step):
                draw(record)
            elif isinstance(record, Estimate):
                forecast = asdict(record)
                print_status(record.describe())
            elif isinstance(record, CheckpointResult):
                print_status(_validation_line(record, build_task(recipe.task).metric))
    if forecast is not None:
        release_memory()
    return forecast


def _validation_line(result: CheckpointResult, metric: str) -> str:
    interval = format_limits(result.interval, ".4g")
    retained = "" if result.retained is None else f", retains {result.retained:.1%} of the base"
    return f"{result.name}: validation {metric} {result.value:.4g} ({interval}), loss {result.loss:.4f}{retained}"
