"""A model asked all examples of a task, with a bar: validating a checkpoint, testing a run, testing a model alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import orjson

from lotune.data.examples import Example
from lotune.evaluate.predict import Prediction, parse_predictions, predict
from lotune.model.base import context_length
from lotune.report.progress import Progress
from lotune.runs import write_atomically
from lotune.tasks.task import Task
from lotune.train.parallel import World


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


def ask_together(
    title: str,
    task: Task,
    examples: Sequence[Example],
    model: Any,
    tokenizer: Any,
    batch_tokens: int,
    out: Path | None,
    world: World,
) -> list[Prediction]:
    """The same by several processes, each of which asks every so many-th example; all have all predictions.

    Each writes a file of its own beside `out`; at the end the leader's holds everything and the others are gone.
    """
    if world.size == 1:
        return ask(title, task, examples, model, tokenizer, batch_tokens, out)
    own = out and out.with_name(f"{out.name}.{world.rank + 1}-of-{world.size}")
    with nullcontext() if world.leads else redirect_stderr(StringIO()):
        found = ask(title, task, examples[world.rank :: world.size], model, tokenizer, batch_tokens, own)
    lines = b"".join(orjson.dumps(prediction.record()) + b"\n" for prediction in found)
    everyone = world.gathered_bytes(lines)
    if out is not None and world.leads:
        write_atomically(out, b"".join(everyone))
    world.gathered(0.0)  # nobody takes a file away before the leader has written
    if own is not None:
        own.unlink(missing_ok=True)
    return [one for rank, part in enumerate(everyone, start=1) for one in parse_predictions(part, f"process {rank}")]
