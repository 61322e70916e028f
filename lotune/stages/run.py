"""`lotune run`: all stages of a recipe in order; finished, unchanged stages are skipped."""

from __future__ import annotations

from typing import Any

from lotune.evaluate.scorecard import Scorecard
from lotune.recipe import Recipe, RunOptions
from lotune.stages.evaluate import evaluate
from lotune.stages.exam import exam_task, write_exam
from lotune.stages.report import write_report


def run(recipe: Recipe, options: RunOptions) -> Scorecard | dict[str, Any]:
    """Prepare, tune, evaluate and report; return the scorecard, or the estimates of a dry run.

    The run of an exam's recipe also writes what the exam asks for.
    """
    if recipe.exam is not None:
        exam_task(recipe)  # raises for another task, before any work
    result = evaluate(recipe, options)
    # A dry run returns estimates, which need no report.
    if isinstance(result, Scorecard):
        write_report(recipe.folder, "lotune run", options.language)
        if recipe.exam is not None:
            write_exam(recipe, recipe.exam, result)
    return result
