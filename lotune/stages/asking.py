"""A model asked all examples of a task, with a bar: validating a checkpoint, testing a run, testing a model alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import orjson

from lotune.data.examples import Example
from lotune.errors import RunError, SettingsError
from lotune.evaluate.predict import Prediction, parse_predictions, predict, read_predictions
from lotune.generate.vllm import Vllm
from lotune.model.base import (
    base_folder,
    context_length,
    load_base,
    load_tokenizer,
    resolve_device,
    resolve_dtype,
)
from lotune.recipe import Recipe
from lotune.report.progress import Progress
from lotune.runs import inputs_mark, write_atomically
from lotune.tasks.task import Choosing, Task
from lotune.train.parallel import World, processes


@dataclass(frozen=True)
class Asking:
    """A model that is asked, and how.

    `title` is that of the bar, `stop` ends an answer beside the task's own texts, `mark` is the model's fingerprint.
    """

    title: str
    model: Any
    tokenizer: Any
    batch_tokens: int
    stop: tuple[str, ...] = ()
    mark: str = ""


def check_engine(recipe: Recipe, task: Task) -> None:
    """Nothing, where the engine of the settings can ask a task. Raises: SettingsError where vLLM cannot."""
    if recipe.evaluate.engine == "lotune":
        return
    found = "several processes under torchrun" if processes() > 1 else ""
    if isinstance(task, Choosing) and task.chooses:
        found = "choosing by likelihood"
    if found:
        raise SettingsError("evaluate.engine", f"vllm does not do this: {found}", remedy="evaluate.engine=lotune")


def load_answering(recipe: Recipe, model: str) -> tuple[Any, Any]:
    """A model's folder or name, held by the engine of the settings (a model of transformers, or Vllm); its tokeniser.

    Raises: ModelError as `load_base` and Vllm do.
    """
    settings = recipe.base.model_copy(update={"model": model})
    if recipe.evaluate.engine == "vllm":
        tokenizer, _ = load_tokenizer(settings)
        return Vllm(settings, tokenizer), tokenizer
    base = load_base(settings, recipe.device)
    return base.model, base.tokenizer


def ask(asking: Asking, task: Task, examples: Sequence[Example], out: Path | None = None) -> list[Prediction]:
    """Predictions on all examples; written one a line to `out` as they come, those that stand there are kept."""
    context, done = context_length(asking.model), []
    with Progress(asking.title, len(examples)) as progress:
        for prediction in predict(
            task, examples, asking.model, asking.tokenizer, batch_tokens=asking.batch_tokens, out=out, context=context,
            stop=asking.stop, mark=asking.mark,
        ):  # fmt: skip
            done.append(prediction)
            progress.advance(len(done))
    return done


def ask_together(
    asking: Asking, task: Task, examples: Sequence[Example], out: Path | None, world: World
) -> list[Prediction]:
    """The same by several processes, each of which asks every so many-th example; all have all predictions.

    Each writes a file of its own beside `out`; at the end `out` holds everything and the others are gone. What was
    written before, by however many processes, is kept.
    """
    own = out
    if out is not None:
        parts = sorted(out.parent.glob(f"{out.name}.*-of-*"))
        stored = [one for file in (out, *parts) if file.exists() for one in read_predictions(file)]
        world.gathered(0.0)  # everybody has read before anybody writes
        own = place = out.with_name(f"{out.name}.{world.rank + 1}-of-{world.size}") if world.size > 1 else out
        if parts or place != out:
            write_atomically(place, _lines(stored))
    with nullcontext() if world.leads else redirect_stderr(StringIO()):
        found = ask(asking, task, examples[world.rank :: world.size], own)
    everyone = world.gathered_bytes(_lines(found))
    if out is not None and world.leads:
        if world.size > 1:
            write_atomically(out, b"".join(everyone))
        for part in out.parent.glob(f"{out.name}.*-of-*"):
            part.unlink()
    return [one for rank, part in enumerate(everyone, start=1) for one in parse_predictions(part, f"process {rank}")]


def model_mark(recipe: Recipe, model: str, out: Path | None) -> str:
    """The fingerprint of a model by its content, number format and engine, empty where nothing is written.

    Raises: RunError where `out`, or a part of it, holds answers of another model.
    """
    if out is None:
        return ""
    settings = recipe.base.model_copy(update={"model": model})
    dtype, engine = resolve_dtype(settings.dtype, resolve_device(recipe.device)), recipe.evaluate.engine
    mark = inputs_mark({"model": base_folder(settings) or model, "dtype": str(dtype), "engine": engine})[:16]
    for file in (out, *out.parent.glob(f"{out.name}.*-of-*")):
        if file.exists() and any(one.model != mark for one in read_predictions(file)):
            found = "holds answers of another model, or does not say which one gave them"
            raise RunError(str(file), found, "answers of this one, or a new file", "name another file with --out")
    return mark


def _lines(predictions: Sequence[Prediction]) -> bytes:
    return b"".join(orjson.dumps(prediction.record()) + b"\n" for prediction in predictions)
