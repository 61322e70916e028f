"""`lotune run`: everything a recipe asks for, in order; what is done and unchanged is skipped."""

from __future__ import annotations

from typing import Any

from lotune.evaluate.scorecard import Scorecard
from lotune.recipe import Options, Recipe
from lotune.stages.evaluate import evaluate


def run(recipe: Recipe, options: Options) -> Scorecard | dict[str, Any]:
    """Prepare, tune and evaluate; the scorecard is the last stage's result."""
    return evaluate(recipe, options)
