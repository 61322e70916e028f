"""A model asked all examples of a task, with a bar: validating a checkpoint, testing a run, testing a model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import Progress
from lotune.data.examples import Example
from lotune.distributed import ProcessGroup
from lotune.evaluate.facts import Facts
from lotune.evaluate.predict import TOO_LONG, Prediction, check_room, fit, parse_predictions, predict
from lotune.evaluate.scorecard import AskedRows
from lotune.evaluate.settings import OnTooLong
from lotune.fingerprints import inputs_fingerprint
from lotune.model.loading import (
    base_folder,
    context_length,
)
from lotune.model.logits import NotFiniteLogitsError
from lotune.recipe import Recipe
from lotune.record_files import encode_records
from lotune.stages.model_loading import answering_with, resolve_weights
from lotune.stages.output_files import merge_rank_outputs
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import MultipleChoice, Task

if TYPE_CHECKING:
    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.sampling import Sampling


@dataclass(frozen=True)
class PredictionJob:
    """A model that is asked, and how.

    `title` is that of the bar, `stop` ends an answer beside the task's own texts, `fingerprint` is
    that of `answers_fingerprint`; `sampling`, `facts` and `on_too_long` are those of `predict`.
    """

    title: str
    answering: AnsweringModel
    batch_tokens: int
    stop: tuple[str, ...] = ()
    fingerprint: str = ""
    sampling: Sampling | None = None
    facts: Facts | None = None
    on_too_long: OnTooLong = "wrong"


Ask = Callable[[PredictionJob, Task, Sequence[Example], Path | None], list[Prediction]]
"""How examples are asked: `run_predictions`, or `ask_alone`."""


def run_predictions(
    asking: PredictionJob, task: Task, examples: Sequence[Example], out: Path | None = None
) -> list[Prediction]:
    """Predictions on all examples; written one a line to `out` as they come, those that stand there are kept.

    Raises: NotFiniteLogitsError, named by the title; SettingsError as `check_room`.
    """
    context, done = context_length(asking.answering.model), []
    if not (isinstance(task, MultipleChoice) and task.by_likelihood):
        check_room(task.max_new_tokens, context)
    with Progress(asking.title, len(examples)) as progress, naming_the_model(asking.title):
        for prediction in predict(
            task, examples, asking.answering, batch_tokens=asking.batch_tokens, out=out, context=context,
            stop=asking.stop, fingerprint=asking.fingerprint, sampling=asking.sampling, facts=asking.facts,
            on_too_long=asking.on_too_long,
        ):  # fmt: skip
            done.append(prediction)
            progress.advance(len(done))
    return done


def ask_alone(
    asking: PredictionJob, task: Task, examples: Sequence[Example], out: Path | None = None
) -> list[Prediction]:
    """Predictions on all examples as `run_predictions` gives them, but each is asked by itself."""
    context, done = context_length(asking.answering.model), list[Prediction]()
    with Progress(asking.title, len(examples)) as progress, naming_the_model(asking.title):
        for example in examples:
            done += predict(
                task, [example], asking.answering, batch_tokens=1, out=out, context=context,
                stop=asking.stop, fingerprint=asking.fingerprint, sampling=asking.sampling, facts=asking.facts,
                on_too_long=asking.on_too_long,
            )  # fmt: skip
            progress.advance(len(done))
    return done


@contextmanager
def naming_the_model(title: str) -> Iterator[None]:
    """Put the title in the place of the model's name where its logits are not finite."""
    try:
        yield
    except NotFiniteLogitsError as error:
        raise error.named(title) from None


def run_predictions_distributed(
    asking: PredictionJob,
    task: Task,
    examples: Sequence[Example],
    out: Path | None,
    world: ProcessGroup,
    how: Ask = run_predictions,
) -> list[Prediction]:
    """The same by several processes, each of which asks every so many-th example; all have all, in the examples' order.

    `out` is written as `merge_rank_outputs` does it; `how` is `run_predictions` or `ask_alone`.
    Raises: PromptTooLongError where a prompt is too long and that stops, in each process and before one is asked.
    """
    if asking.on_too_long == "stop":
        for example in examples:
            fit(task, example, asking.answering.tokenizer, context_length(asking.answering.model), "stop")

    def work(own: Path | None) -> bytes:
        found = how(asking, task, examples[world.rank :: world.size], own)
        return encode_records(prediction.record() for prediction in found)

    everyone = merge_rank_outputs(out, world, work)
    places = {example.id: place for place, example in enumerate(examples)}
    found = [one for rank, part in enumerate(everyone, start=1) for one in parse_predictions(part, f"process {rank}")]
    return sorted(found, key=lambda one: places[one.example_id])


def measured_rows(rows: AskedRows, answers: Sequence[Prediction]) -> AskedRows:
    """The rows with the number of prompts that were too long, and of those that were cut, as their answers say."""
    too_long = sum(one.finish_reason == TOO_LONG for one in answers)
    return rows.model_copy(update={"too_long": too_long, "cut": sum(one.prompt_truncated for one in answers)})


def answers_fingerprint(recipe: Recipe, model: str, task: TaskSettings, **more: Any) -> str:
    """The fingerprint of all that an answer depends on beside its prompt: weights, number format, engine, settings.

    How an answer is judged is not among it, unless it is chosen in that way; `more` counts, a Path by its content.
    """
    settings, adapter = resolve_weights(recipe, model)
    dtype = answering_with(recipe, settings).dtype
    inputs = {
        "model": base_folder(settings) or settings.model, "adapter": adapter, "dtype": dtype,
        "engine": recipe.evaluate.engine, "on_too_long": recipe.evaluate.on_too_long,
        "task": task.model_dump(exclude=set() if task.chooses_by_likelihood else {"scorer"}), **more,
    }  # fmt: skip
    return inputs_fingerprint(inputs)[:16]
