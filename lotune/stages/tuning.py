"""Train an adapter on the prepared rows, and validate each checkpoint.

The tuning is an iterator of records, which its consumer may stop.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lotune.console import print_status
from lotune.data.examples import Example
from lotune.data.tokenized import encode_row
from lotune.disk_space import require_free_space
from lotune.evaluate.early_stopping import learning_outcome, reason_to_stop
from lotune.files import write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.memory import oom_names_setting
from lotune.model.loading import count_parameters
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.methods.registry import METHODS
from lotune.recipe import Recipe, RunOptions, check_extras
from lotune.record_files import append_record
from lotune.runs import METRICS_FILE, Run
from lotune.stages.auto_settings import (
    print_setting_reasons,
    resolve_run_settings,
    store_settings,
    with_settings,
)
from lotune.stages.divergence import divergence_limit_reason
from lotune.stages.merging import template_text
from lotune.stages.model_loading import answer_dtype_context
from lotune.stages.predictions import PredictionJob, run_predictions
from lotune.stages.prompt_template import resolve_training_template
from lotune.stages.run_dtypes import print_dtype_reason, resolve_run_dtypes, store_dtypes, tuning_deciders, with_dtypes
from lotune.stages.training_session import STATES_FOLDER, follow, lead, resume, resume_follower
from lotune.stages.tuning_progress import TuningProgress, validation_points
from lotune.stages.tuning_session import (
    TuningSession,
    ValidationSet,
    estimate_tuning,
    set_up_tuning,
    tuning_inputs,
    validation_set,
    with_early_end,
)
from lotune.stages.validate import CheckpointResult, checkpoint_result, with_retention
from lotune.stages.validation_rows import ANSWERS, BASE, ValidationRows

if TYPE_CHECKING:
    from lotune.evaluate.predict import Prediction
    from lotune.train.loop import Step
    from lotune.train.resource_estimate import Estimate

TRAINING_FILE = "training.json"
"""File of a run with the result of the training: steps, parameters, and the validation loss of each checkpoint."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """An adapter that was saved after a step and is not validated yet."""

    name: str
    step: int
    folder: Path


TuningRecord: TypeAlias = "Estimate | Step | SavedCheckpoint | CheckpointResult"
"""A record of `tuning`: the estimate first, then steps; after some steps, a checkpoint and its validation."""
Goal: TypeAlias = Callable[[Sequence[CheckpointResult]], str | None]
"""Return why a tuning has reached its goal with the last of its checkpoints, or None if it has not."""


def tuning(run: Run, recipe: Recipe, options: RunOptions, goal: Goal | None = None) -> Generator[TuningRecord]:
    """Tune on the prepared rows and yield a record of each event; yield nothing if the run's tuning is done.

    Metrics and states are written before the next record is requested. To stop early, close the iterator
    (`contextlib.closing`): the run stays unfinished, and a later call resumes from its last saved state. A dry run ends
    after the estimate. With a `goal`, a tuning with adaptive spacing ends early once it is reached, not by validation.

    Raises: RunError if the disk has too little space; NotFiniteError, naming the rows of the step.
    """
    given, (recipe, choices) = recipe, resolve_run_settings(run, recipe, tuning_inputs)
    settled, dtypes = resolve_run_dtypes(run, recipe, tuning_inputs(recipe), tuning_deciders(recipe))
    inputs, path = tuning_inputs(settled), run.folder / TRAINING_FILE
    if run.stage_state("tune", inputs) == "done" and path.exists():
        return
    check_extras(settled)
    print_setting_reasons(given, choices)
    print_dtype_reason(run, recipe, dtypes, "tuning")
    # The main process decides for all: a dtype may depend on a measurement, and the processes must agree.
    options.world.send_to_followers("tune")
    options.world.send_to_followers([given.model_dump(mode="json", exclude_unset=True), choices, dtypes])
    session = set_up_tuning(settled, options.world, inputs_fingerprint(inputs))
    forecast = estimate_tuning(session, settled)
    yield replace(forecast, settings=choices["settings"])
    written = [run.folder / "checkpoints", run.folder / STATES_FOLDER]
    require_free_space(run.folder, forecast.disk_bytes, "tuning", written)
    if options.dry_run:
        return
    # Only now: a dry run or a full disk must not discard a finished tuning.
    run.invalidate_stage("tune")
    store_settings(run, choices)
    store_dtypes(run, dtypes)
    summary = yield from _train(run, settled, session, goal)
    write_json(path, summary)
    adapters = [_adapter_folder(run, checkpoint["name"]) for checkpoint in summary["checkpoints"]]
    run.mark_stage_done("tune", inputs, [path, *adapters])
    # After the stage is done: a crash before that resumes from these states.
    shutil.rmtree(run.folder / STATES_FOLDER, ignore_errors=True)


def follow_tuning(_: Recipe, options: RunOptions) -> None:
    """Join the main process's tuning: compute a part of each step, and write nothing."""
    # The main process sends the recipe, as that of a repair is not the recipe of the command.
    record, choices, dtypes = options.world.receive()
    recipe = Recipe.model_validate(record)
    recipe = resolve_training_template(with_dtypes(with_settings(recipe, choices), dtypes))
    tuning = set_up_tuning(recipe, options.world)
    if tuning.session.in_shards:  # the main process's trial step gathers the shards of every process
        estimate_tuning(tuning, recipe)
    if options.dry_run:
        return
    validation = validation_set(recipe, tuning)
    if tuning.session.in_shards:
        _base_answers(recipe, tuning, validation)
    done = resume_follower(tuning.session)
    decided_at: int | None = options.world.receive()
    tuning = tuning if decided_at is None else with_early_end(tuning, decided_at)
    while done < tuning.plan.steps:
        for step in _followed_steps(tuning, done):
            done = step.number
            if tuning.session.in_shards and done in tuning.plan.checkpoints:
                _measure(recipe, tuning, validation, f"step {done}")
        if done < tuning.plan.steps:  # the main process has decided so
            tuning = with_early_end(tuning, done)


def _followed_steps(tuning: TuningSession, done: int) -> Iterator[Step]:
    """Yield the steps of a follower up to the end of the tuning, or to that at which the main process ends it early."""
    world = tuning.session.training.world
    return follow(tuning.session, done, lambda step: step in tuning.plan.decisions and bool(world.receive()))


def _train(
    run: Run, recipe: Recipe, tuning: TuningSession, goal: Goal | None = None
) -> Generator[TuningRecord, None, dict[str, Any]]:
    """Yield steps, checkpoints and validations; return the content of training.json."""
    import torch

    from lotune.model.adapters import trainable_count

    trainable = trainable_count(tuning.model)
    trains_base = METHODS[recipe.adapter.method].trains_base
    total = count_parameters(tuning.model) - (0 if trains_base else trainable)
    steps, at_most = tuning.plan.steps, "at most " if tuning.plan.decisions else ""
    print_status(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.3%}), {at_most}{steps} steps")
    validation = validation_set(recipe, tuning)
    shown, *base = _base_answers(recipe, tuning, validation)
    torch.manual_seed(recipe.seed)  # the estimate may have drawn random numbers
    state = resume(tuning.session)
    if state.step == 0:  # any checkpoints belong to another tuning
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(run.folder / ANSWERS, ignore_errors=True)
    for rows, answers in zip((validation.rows, *validation.watched), (shown, *base), strict=True):
        rows.store(recipe, BASE, answers)
    progress = TuningProgress.resumed(state.step, state.notes)
    world = tuning.session.training.world
    world.send_to_followers(progress.decided_at)
    tuning = tuning if progress.decided_at is None else with_early_end(tuning, progress.decided_at)
    while progress.done < tuning.plan.steps:
        for step in lead(tuning.session, progress.done, progress.notes, lambda step: step == progress.decided_at):
            yield step
            progress.done = step.number
            if step.number in tuning.plan.checkpoints:
                saved = _save_checkpoint(run, recipe, tuning, step.number)
                yield saved
                progress.results.append(_validate(recipe, tuning, validation, base, saved))
                append_record(run.folder / METRICS_FILE, {"validation": asdict(progress.results[-1])})
                yield progress.results[-1]
            if step.number in tuning.plan.decisions:
                progress.decide(_reason_to_end(recipe, tuning, validation, progress.results, goal))
                world.send_to_followers(progress.decided_at is not None)
        if progress.decided_at is not None and tuning.plan.decisions:
            tuning = with_early_end(tuning, progress.decided_at)
            print_status(f"ends early: {progress.reason}; the learning rate falls until step {tuning.plan.steps}")
    outcome = learning_outcome(validation_points(validation.rows, progress.results))
    print_status(outcome)
    counts = {"steps": tuning.plan.steps, "planned_steps": steps, "trainable": trainable, "total": total}
    return {**counts, **progress.summary(), "outcome": outcome}


def _reason_to_end(
    recipe: Recipe,
    tuning: TuningSession,
    validation: ValidationSet,
    results: Sequence[CheckpointResult],
    goal: Goal | None,
) -> str | None:
    """Return why a tuning ends after its last checkpoint, or None if it goes on."""
    too_far = divergence_limit_reason(recipe, tuning.model, tuning.base.tokenizer, validation.rows.examples)
    if too_far is not None:
        return too_far
    if recipe.retention.action == "stop" and results[-1].retained is not None and not results[-1].gate_passed:
        return f"{results[-1].name} retains {results[-1].retained:.1%} of the base, below retention.min_retained"
    if recipe.checkpoints.spacing != "adaptive":
        return None
    return reason_to_stop(validation_points(validation.rows, results)) if goal is None else goal(results)


def _adapter_folder(run: Run, checkpoint: str) -> Path:
    return run.folder / "checkpoints" / checkpoint / "adapter"


def _save_checkpoint(run: Run, recipe: Recipe, tuning: TuningSession, step: int) -> SavedCheckpoint:
    from lotune.model.checkpoints import save_adapter

    name = f"step-{step:06d}"
    saved = SavedCheckpoint(name, step, _adapter_folder(run, name))
    save_adapter(tuning.model, saved.folder, template_text(recipe), tuning.base, recipe.adapter.format)
    return saved


def _validate(
    recipe: Recipe,
    tuning: TuningSession,
    validation: ValidationSet,
    base: Sequence[list[Prediction]],
    checkpoint: SavedCheckpoint,
) -> CheckpointResult:
    """Measure a checkpoint on the validation rows, and store its answers; `base` has those to the watched rows."""
    answers = _measure(recipe, tuning, validation, checkpoint.name)
    rows, watched = validation.rows, validation.watched
    rows.store(recipe, checkpoint.name, answers.target)
    result = checkpoint_result(checkpoint.name, checkpoint.step, answers.loss, rows.task, answers.target)
    for retained, given in zip(watched, answers.watched, strict=True):
        retained.store(recipe, checkpoint.name, given)
    return with_retention(result, recipe, watched, base, answers.watched) if watched else result


@dataclass(frozen=True)
class _Answers:
    """The answers to the validation rows of task and watched abilities, and the loss of the task's references."""

    target: list[Prediction]
    watched: list[list[Prediction]]
    loss: float


def _measure(recipe: Recipe, tuning: TuningSession, validation: ValidationSet, name: str) -> _Answers:
    """Return the answers of the model as it is; with sharded weights, all processes call it."""
    from lotune.train.loop import evaluate_loss

    title = f"validating {name}"
    tuning.model.eval()
    with _name_row_on_nan(tuning.base.tokenizer, validation.rows.examples, title):
        loss = evaluate_loss(tuning.model, validation.batches)
    target, *watched = _answer(recipe, tuning, tuning.model, [validation.rows, *validation.watched], title)
    return _Answers(target, watched, loss)


def _base_answers(recipe: Recipe, tuning: TuningSession, validation: ValidationSet) -> list[list[Prediction]]:
    """Return the base's answers to the first rows of the task, and to all rows of each watched ability.

    With sharded weights, all processes call it.
    """
    from lotune.model.adapters import base_alone

    tuning.model.eval()
    with base_alone(tuning.model) as base:
        return _answer(recipe, tuning, base, [validation.rows.first(), *validation.watched], "the base, before tuning")


def _answer(
    recipe: Recipe, tuning: TuningSession, model: Any, sets: Sequence[ValidationRows], title: str
) -> list[list[Prediction]]:
    """Return a model's answers to each set of rows."""
    from lotune.generate.answering_model import AnsweringModel

    answering, batch_tokens = AnsweringModel(model, tuning.base.tokenizer), recipe.evaluate.max_batch_tokens
    job = PredictionJob(title, answering, batch_tokens, on_too_long=recipe.evaluate.on_too_long, references_only=True)
    with (
        oom_names_setting("evaluate.max_batch_tokens", title, f"lower it, it is {batch_tokens}"),
        answer_dtype_context(recipe, tuning.model, tuning.session.in_shards),
    ):
        return [run_predictions(job, rows.task, rows.examples) for rows in sets]


@contextmanager
def _name_row_on_nan(tokenizer: Any, examples: Sequence[Example], model: str) -> Iterator[None]:
    """Return a context in which an error about logits that are not finite names the model and the row."""
    try:
        yield
    except NotFiniteLogitsError as error:
        rows = (encode_row(tokenizer, example) for example in examples)
        row_id = next((row.id for row in rows if row.token_ids[: len(error.ids)] == error.ids), None)
        raise error.named(model, f"row {row_id}" if row_id and error.ids else None) from None
