"""A model asked all examples of a task, with a bar: validating a checkpoint, testing a run, testing a model alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotune.data.examples import Example
from lotune.evaluate.predict import Prediction, predict
from lotune.model.base import context_length
from lotune.report.progress import Progress
from lotune.tasks.task import Task


def ask(
    title: str,
    task: Task,
    examples: Sequence[Example],
    model: Any,
    tokenizer: Any,
    batch_tokens: int,
    out: Path | None = None,
) -> list[Prediction]:
    """Predictions on all examples; written one a line to `out` as they come, those that stand there are kept."""
    context, done = context_length(model), []
    with Progress(title, len(examples)) as progress:
        for prediction in predict(
            task, examples, model, tokenizer, batch_tokens=batch_tokens, out=out, context=context
        ):
            done.append(prediction)
            progress.advance(len(done))
    return done
