"""`lotune run`: all stages of a recipe in order; finished, unchanged stages are skipped."""

from __future__ import annotations

from typing import Any

from lotune.evaluate.scorecard import Scorecard
from lotune.recipe import Recipe, RunOptions
from lotune.stages.evaluate import evaluate
from lotune.stages.report import write_report


def run(recipe: Recipe, options: RunOptions) -> Scorecard | dict[str, Any]:
    """Prepare, tune, evaluate and report; return the scorecard, or the estimates of a dry run."""
    result = evaluate(recipe, options)
    # A dry run returns estimates, which need no report.
    if isinstance(result, Scorecard):
        write_report(recipe.folder, "lotune run")
    return result
