"""Generate a model's answers to all examples of a task, with a progress bar, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import Progress
from lotune.data.examples import Example
from lotune.distributed import ProcessGroup
from lotune.evaluate.facts import Facts
from lotune.evaluate.predict import TOO_LONG, Prediction, check_max_new_tokens, fit, parse_predictions, predict
from lotune.evaluate.scorecard import EvaluationSetCounts
from lotune.evaluate.settings import OnTooLong
from lotune.fingerprints import inputs_fingerprint
from lotune.model.loading import base_folder
from lotune.model.logits import NotFiniteLogitsError
from lotune.recipe import Recipe
from lotune.record_files import encode_records
from lotune.stages.model_loading import resolve_answer_dtype, resolve_weights
from lotune.stages.output_files import merge_rank_outputs
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task

if TYPE_CHECKING:
    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.sampling import Sampling


@dataclass(frozen=True)
class PredictionJob:
    """A model and the protocol of its answers.

    `title` is that of the progress bar; the texts of `stop` end an answer as those of the task do; `fingerprint` is the
    result of `answers_fingerprint`; `sampling`, `facts`, `on_too_long` and `references_only` are those of `predict`.
    """

    title: str
    answering: AnsweringModel
    batch_tokens: int
    stop: tuple[str, ...] = ()
    fingerprint: str = ""
    sampling: Sampling | None = None
    facts: Facts | None = None
    on_too_long: OnTooLong = "wrong"
    references_only: bool = False


PredictionRunner = Callable[[PredictionJob, Task, Sequence[Example], Path | None], list[Prediction]]
"""Type of `run_predictions` and `run_predictions_unbatched`."""


def run_predictions(
    job: PredictionJob, task: Task, examples: Sequence[Example], out: Path | None = None
) -> list[Prediction]:
    """Return the predictions on all examples; append each to `out` as it comes, and reuse those that `out` has already.

    Raises: NotFiniteLogitsError, named by the title; SettingsError as `check_max_new_tokens`.
    """
    context, done = job.answering.context, []
    if not task.chooses_by_likelihood:
        check_max_new_tokens(task.max_new_tokens, context)
    with Progress(job.title, len(examples)) as progress, name_model_in_errors(job.title):
        for prediction in predict(
            task, examples, job.answering, batch_tokens=job.batch_tokens, out=out, context=context,
            stop=job.stop, fingerprint=job.fingerprint, sampling=job.sampling, facts=job.facts,
            on_too_long=job.on_too_long, references_only=job.references_only,
        ):  # fmt: skip
            done.append(prediction)
            progress.advance(len(done))
    return done


def run_predictions_unbatched(
    job: PredictionJob, task: Task, examples: Sequence[Example], out: Path | None = None
) -> list[Prediction]:
    """Return the predictions on all examples as `run_predictions` does, but with one example in each batch."""
    context, done = job.answering.context, list[Prediction]()
    with Progress(job.title, len(examples)) as progress, name_model_in_errors(job.title):
        for example in examples:
            done += predict(
                task, [example], job.answering, batch_tokens=1, out=out, context=context,
                stop=job.stop, fingerprint=job.fingerprint, sampling=job.sampling, facts=job.facts,
                on_too_long=job.on_too_long, references_only=job.references_only,
            )  # fmt: skip
            progress.advance(len(done))
    return done


@contextmanager
def name_model_in_errors(title: str) -> Iterator[None]:
    """Return a context in which an error about logits that are not finite names the title as the model."""
    try:
        yield
    except NotFiniteLogitsError as error:
        raise error.named(title) from None


def run_predictions_distributed(
    job: PredictionJob,
    task: Task,
    examples: Sequence[Example],
    out: Path | None,
    world: ProcessGroup,
    runner: PredictionRunner = run_predictions,
) -> list[Prediction]:
    """Return the predictions on all examples, in their order, from several processes with every n-th example each.

    `merge_rank_outputs` writes `out`; `runner` is `run_predictions` or `run_predictions_unbatched`.

    Raises: PromptTooLongError, in each process and before the first answer, if a prompt is too long and `on_too_long`
    is "stop".
    """
    # Every process checks all prompts, so that all of them stop with the same error.
    if job.on_too_long == "stop":
        for example in examples:
            fit(task, example, job.answering.tokenizer, job.answering.context, "stop")

    def work(rank_path: Path | None) -> bytes:
        # Strided, so that a file sorted by length is divided evenly.
        predictions = runner(job, task, examples[world.rank :: world.size], rank_path)
        return encode_records(prediction.record() for prediction in predictions)

    parts = merge_rank_outputs(out, world, work)
    index = {example.id: number for number, example in enumerate(examples)}
    predictions = chain.from_iterable(
        parse_predictions(part, f"process {rank}") for rank, part in enumerate(parts, start=1)
    )
    return sorted(predictions, key=lambda prediction: index[prediction.example_id])


def with_long_prompt_counts(rows: EvaluationSetCounts, answers: Sequence[Prediction]) -> EvaluationSetCounts:
    """Return the counts of an evaluation set, with the too long and the truncated prompts counted from its answers."""
    too_long = [answer.score.correct for answer in answers if answer.finish_reason == TOO_LONG]
    left_out = too_long.count(None)
    cut = sum(answer.prompt_truncated for answer in answers)
    return rows.model_copy(update={"too_long": len(too_long) - left_out, "left_out": left_out, "cut": cut})


def answers_fingerprint(recipe: Recipe, model: str, task: TaskSettings, **more: Any) -> str:
    """Return the fingerprint of all that an answer depends on besides its prompt: weights, dtype, engine, settings.

    `more` holds further inputs; a Path counts by its content.
    """
    settings, adapter = resolve_weights(recipe, model)
    dtype = resolve_answer_dtype(recipe, settings).dtype
    # A scorer does not change an answer, except where the answer is chosen by comparing likelihoods.
    inputs = {
        "model": base_folder(settings) or settings.model, "adapter": adapter, "dtype": dtype,
        **({} if recipe.evaluate.quantize == "none" else {"quantize": recipe.evaluate.quantize}),
        "engine": recipe.evaluate.engine, "on_too_long": recipe.evaluate.on_too_long,
        "task": task.model_dump(exclude=set() if task.chooses_by_likelihood else {"scorer"}), **more,
    }  # fmt: skip
    return inputs_fingerprint(inputs)[:16]
