"""Run a tuning and show it: a line for each validation, and curves for TensorBoard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.memory import release_memory
from lotune.recipe import Recipe, RunOptions
from lotune.report.terminal import format_limits
from lotune.runs import Run
from lotune.stages.tuning import Goal, tuning
from lotune.stages.validate import CheckpointResult
from lotune.tasks.registry import build_task

if TYPE_CHECKING:
    from lotune.train.loop import Step


def run_tuning(run: Run, recipe: Recipe, options: RunOptions, goal: Goal | None = None) -> dict[str, Any] | None:
    """Tune and show each record; return the estimate, or None if the tuning was done already."""
    from lotune.train.loop import Step
    from lotune.train.resource_estimate import Estimate

    forecast = None
    with (
        closing(tuning(run, recipe, options, goal)) as records,
        _tensorboard_curves(run.folder, recipe.tune.tensorboard) as draw,
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


@contextmanager
def _tensorboard_curves(folder: Path, enabled: bool) -> Iterator[Callable[[Step], None]]:
    """Return a context with a function that adds a step to TensorBoard's curves if they are enabled."""
    writers: list[Any] = []

    def draw(step: Step) -> None:
        if enabled:
            writers[:] = writers or [_summary_writer(folder, step.number)]
            _write_scalars(writers[0], step)

    yield draw
    for writer in writers:
        writer.close()


def _summary_writer(folder: Path, first_step: int) -> Any:
    """Return a TensorBoard writer for the steps from `first_step` on, which hides earlier records of the same steps."""
    from torch.utils.tensorboard import SummaryWriter

    path = folder / "tensorboard"
    if first_step == 1:
        shutil.rmtree(path, ignore_errors=True)
    return SummaryWriter(str(path), purge_step=first_step if first_step > 1 else None)


def _write_scalars(writer: Any, step: Step) -> None:
    for name in ("loss", "learning_rate", "gradient_norm"):
        writer.add_scalar(f"train/{name}", getattr(step, name), step.number)
    writer.flush()
