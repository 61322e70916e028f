"""`lotune tune`: an adapter trained on the prepared rows, asked at each checkpoint, the best merged and checked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.data.collate import Batch, Collator
from lotune.data.examples import Example
from lotune.data.rank_split import RankSplit
from lotune.data.samplers import rows_of_step, tuning_batches
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import encode_row
from lotune.data.tokenizer_training import padding_id
from lotune.disk_space import require_free_space
from lotune.distributed import ProcessGroup
from lotune.errors import SettingsError
from lotune.files import append_jsonl, read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.memory import oom_names_setting, release_memory
from lotune.model.loading import (
    LoadedModel,
    base_folder,
    context_length,
    count_parameters,
    dtype_name,
    meta_model,
    resolve_device,
    resolve_dtype,
)
from lotune.model.parts import virtual_ids
from lotune.model.quantization import load_quantized
from lotune.recipe import Recipe, RunOptions, check_extras
from lotune.report.terminal import limits_text
from lotune.runs import Run
from lotune.stages.dependencies import stage_inputs
from lotune.stages.merging import ensure_merged, template_text
from lotune.stages.model_loading import answering_block
from lotune.stages.number_formats import explain, formats_of_tuning, keep, settle, with_formats
from lotune.stages.predictions import PredictionJob, run_predictions
from lotune.stages.prepare import ensure_prepared, open_prepared_run, read_examples
from lotune.stages.training_run import (
    METRICS_FILE,
    STATES_FOLDER,
    enable_packing_or_warn,
    name_rows_on_nan,
    naming_the_row,
    resume,
    run_steps,
    should_compile,
)
from lotune.stages.validate import ANSWERS, CheckpointResult, ensure_validated, measured, store_answers
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task
from lotune.train.schedule import checkpoint_steps, lr_factors, tuning_steps

if TYPE_CHECKING:
    from lotune.evaluate.predict import Prediction
    from lotune.train.loop import Step
    from lotune.train.resource_estimate import Estimate
    from lotune.train.train_state import Training


@dataclass(frozen=True)
class Plan:
    """The course of a tuning: its steps, when checkpoints are due, rows and shares of the learning rate a step."""

    steps: int
    checkpoints: list[int]
    step_rows: int
    lr_factors: list[float]


@dataclass(frozen=True)
class TuningSession:
    """What a tuning is done with; `in_shards`: the processes of `world` divide the base's weights."""

    base: LoadedModel
    model: Any
    rows: TokenFile
    layout: Collator
    plan: Plan
    world: ProcessGroup
    in_shards: bool


def tune(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Train and validate the adapter, unless it is there; prepares the data first where needed."""
    with open_prepared_run(recipe, options) as (run, recipe):
        ensure_prepared(run, recipe)
        return ensure_tuned(run, recipe, options)


def ensure_tuned(run: Run, recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """What tuning, validation and merging found, each done anew where it is missing or what it depends on changed."""
    asked, path = recipe, run.folder / "training.json"
    recipe, formats = settle(run, asked, tuning_inputs(run, asked), formats_of_tuning(asked))
    inputs = tuning_inputs(run, recipe)
    if run.stage_state("tune", inputs) != "done" or not path.exists():
        check_extras(recipe)
        explain(run, asked, formats, "tuning")
        options.world.send_to_followers("tune")
        options.world.send_to_followers(formats)
        begun = _set_up(recipe, options.world)
        forecast = _estimate(begun, recipe)
        print_status(forecast.describe())
        require_free_space(
            run.folder, forecast.disk_bytes, "tuning", [run.folder / "checkpoints", run.folder / STATES_FOLDER]
        )
        if options.dry_run:
            return {"estimate": asdict(forecast)}
        run.invalidate_stage("tune")
        keep(run, formats)
        summary = _train(run, recipe, begun)
        write_json(path, summary)
        adapters = [run.folder / "checkpoints" / one["name"] / "adapter" for one in summary["checkpoints"]]
        run.mark_stage_done("tune", inputs, [path, *adapters])
        shutil.rmtree(run.folder / STATES_FOLDER, ignore_errors=True)
        del begun
        release_memory()
    if options.dry_run:
        trained: dict[str, Any] = read_json(path)
        return trained
    found = ensure_validated(run, recipe)
    return found | {"merge_checks": ensure_merged(run, recipe, found)}


def run_as_follower(recipe: Recipe, options: RunOptions) -> None:
    """The part of a process that does not lead in a tuning: its share of each step; it writes nothing."""
    from lotune.train.train_state import save_states_between, sync_follower

    recipe = with_formats(recipe, options.world.receive())
    begun = _set_up(recipe, options.world)
    if begun.in_shards:
        _estimate(begun, recipe)
    if options.dry_run:
        return
    training = _training(recipe, begun, mark="")
    done = sync_follower(recipe.folder / STATES_FOLDER, training, recipe.seed)
    task, validation, answers = _validation_data(recipe, begun)
    minutes, always = recipe.save_every_minutes, begun.plan.checkpoints
    steps = _train_steps(recipe, begun, training, done)
    for step in save_states_between(
        steps, recipe.folder / STATES_FOLDER, training, dict, minutes=minutes, always=always
    ):
        if begun.in_shards and step.number in always:
            _measure(recipe, begun, task, validation, answers, f"step {step.number}")


def _set_up(recipe: Recipe, world: ProcessGroup) -> TuningSession:
    """Base, fresh adapter, rows and plan. Raises: SettingsError where a step has fewer rows than processes."""
    from lotune.model.checkpoints import init_adapter
    from lotune.train.dropout import drop_by_text
    from lotune.train.fsdp import apply_fsdp, needs_fsdp

    rows = TokenFile(recipe.folder / "data" / "train")
    plan, device = make_plan(recipe, len(rows)), resolve_device(recipe.device)
    if plan.step_rows < world.size:
        found, remedy = f"{plan.step_rows} rows a step for {world.size} processes", "raise it, or start fewer"
        raise SettingsError("tune.micro_batch_rows", found, "a row for each process", remedy)
    empty, dtype = meta_model(recipe.base), resolve_dtype(recipe.base.dtype, device)
    in_shards = needs_fsdp(recipe.fsdp, count_parameters(empty) * dtype.itemsize, device, world)
    settings = recipe.base.model_copy(update={"dtype": dtype_name(dtype)})
    if in_shards and recipe.tune.quantization != "none":
        found, remedy = "weights in shards are not quantised", "fsdp=off, or tune.quantization=none"
        raise SettingsError("tune.quantization", found, remedy=remedy)
    base = load_quantized(settings, "cpu" if in_shards else device, recipe.tune.quantization)
    model: Any = init_adapter(base, recipe.adapter, recipe.seed)
    drop_by_text(model, recipe.seed)
    if in_shards:
        apply_fsdp(model, world, device, [parameter for parameter in model.parameters() if parameter.requires_grad])
    return TuningSession(base, model, rows, _layout(model, base, rows, recipe), plan, world, in_shards)


def tuning_inputs(run: Run, recipe: Recipe) -> dict[str, Any]:
    """What tuning depends on: settings, the prepared rows, the base's files."""
    folder = base_folder(recipe.base)
    inputs = {**stage_inputs(recipe, "tune"), "rows": run.folder / "data" / "train.tokens.json"}
    if folder is not None:
        inputs["base.files"] = folder
    return inputs


def make_plan(recipe: Recipe, rows: int) -> Plan:
    """The course of a tuning. Raises: SettingsError where there are more checkpoints than steps."""
    settings = recipe.tune
    step_rows = min(settings.micro_batch_rows * settings.gradient_accumulation_steps, rows)
    steps = tuning_steps(rows, step_rows, settings.epochs, settings.steps)
    return Plan(steps, checkpoint_steps(steps, recipe.checkpoints.count), step_rows, lr_factors(settings, steps))


def _layout(model: Any, base: LoadedModel, rows: TokenFile, recipe: Recipe) -> Collator:
    """Packed lines where the model can take them, padded rows otherwise."""
    from lotune.train.loop import enable_gradient_checkpointing

    settings = recipe.tune
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model, "tune.gradient_checkpointing")
    packed = enable_packing_or_warn(model, rows)
    pad, prefix_ids = padding_id(base.tokenizer), virtual_ids(model)
    return Collator(settings.micro_batch_rows, settings.max_batch_tokens, pad, packed, prefix_ids)


def _batches(begun: TuningSession, recipe: Recipe, first_step: int = 1) -> Iterator[list[Any]]:
    plan = begun.plan
    return tuning_batches(
        begun.rows, begun.layout, step_rows=plan.step_rows, steps=plan.steps, seed=recipe.seed,
        first_step=first_step, share=RankSplit(begun.world.rank, begun.world.size),
    )  # fmt: skip


def _estimate(begun: TuningSession, recipe: Recipe) -> Estimate:
    from lotune.train.resource_estimate import estimate

    batches = next(_batches(begun, recipe))
    merged = {"all": recipe.checkpoints.count, "chosen": 1, "none": 0}[recipe.merged_checkpoints]
    return estimate(begun.model, batches, begun.plan.steps, recipe.checkpoints.count, merged)


def _training(recipe: Recipe, begun: TuningSession, mark: str) -> Training:
    import torch

    from lotune.train.optimizers import make_optimizers
    from lotune.train.train_state import Training

    optimizers = make_optimizers(begun.model, recipe.tune)
    torch.manual_seed(recipe.seed)
    return Training(begun.model, optimizers, mark, begun.world)


def _validation_data(recipe: Recipe, begun: TuningSession) -> tuple[Task, list[Example], list[Batch]]:
    """The task, the rows that checkpoints are validated on, and those that fit with their answers, as batches."""
    validation = read_examples(recipe.folder / "data" / "validation.jsonl")
    rows, context = (encode_row(begun.base.tokenizer, one) for one in validation), context_length(begun.base.model)
    answers = begun.layout.batches(row for row in rows if len(row.token_ids) <= context)
    return build_task(recipe.task), validation, answers


def _train(run: Run, recipe: Recipe, begun: TuningSession) -> dict[str, Any]:
    from lotune.model.adapters import trainable_count

    model, plan = begun.model, begun.plan
    task, validation, answers = _validation_data(recipe, begun)
    trainable, total = trainable_count(model), count_parameters(model) - trainable_count(model)
    print_status(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.3%}), {plan.steps} steps")
    training = _training(recipe, begun, inputs_fingerprint(tuning_inputs(run, recipe)))
    state = resume(run, training)
    found = [CheckpointResult(**one) for one in state.notes.get("found", [])]
    if state.step == 0:
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(run.folder / ANSWERS, ignore_errors=True)
    started = time.monotonic() - state.notes.get("seconds", 0.0)

    def notes() -> dict[str, Any]:
        return {"found": [asdict(one) for one in found], "seconds": time.monotonic() - started}

    with name_rows_on_nan(partial(_rows_of_step, begun.rows, plan, recipe.seed)):
        for step in _logged_steps(run, recipe, begun, training, state.step, notes):
            if step.number in plan.checkpoints:
                found.append(_checkpoint(run, recipe, begun, task, validation, answers, step))
                append_jsonl(run.folder / METRICS_FILE, {"validation": asdict(found[-1])})
    return {
        "steps": plan.steps, "trainable": trainable, "total": total, "seconds": time.monotonic() - started,
        "checkpoints": [{"name": one.name, "step": one.step, "loss": one.loss} for one in found],
    }  # fmt: skip


def _rows_of_step(rows: TokenFile, plan: Plan, seed: int, step: int) -> list[str]:
    """Where the rows of a step (from 1) came from."""
    return rows.ids(rows_of_step(len(rows), plan.step_rows, seed, step))


def _train_steps(recipe: Recipe, begun: TuningSession, training: Training, done: int) -> Iterator[Step]:
    """The steps after the `done` ones."""
    import torch

    from lotune.train.loop import train
    from lotune.train.loss import CausalLoss

    settings, device = recipe.tune, resolve_device(recipe.device)
    return train(
        training.model,
        _batches(begun, recipe, done + 1),
        training.optimizers,
        begun.plan.lr_factors,
        max_grad_norm=settings.max_grad_norm,
        objective=CausalLoss(training.model, should_compile(settings.compile, device, begun.in_shards)),
        first_step=done + 1,
        world=begun.world,
        autocast_bfloat16=begun.base.dtype == torch.bfloat16,
    )


def _logged_steps(
    run: Run, recipe: Recipe, begun: TuningSession, training: Training, done: int, notes: Any
) -> Iterator[Step]:
    """The steps after the `done` ones, shown, logged, and their state saved where that is due."""
    writer = _tensorboard(run, done) if recipe.tune.tensorboard else None
    steps, plan = _train_steps(recipe, begun, training, done), begun.plan
    minutes, always = recipe.save_every_minutes, plan.checkpoints
    for step in run_steps(run, "tuning", steps, (done, plan.steps), training, notes, minutes=minutes, always=always):
        _write_scalars(writer, step)
        yield step
    if writer is not None:
        writer.close()


def _checkpoint(
    run: Run,
    recipe: Recipe,
    begun: TuningSession,
    task: Task,
    validation: list[Example],
    answers: list[Batch],
    step: Step,
) -> CheckpointResult:
    """Save the adapter, measure it on the validation rows and store its answers."""
    from lotune.model.checkpoints import save_adapter

    name = f"step-{step.number:06d}"
    folder = run.folder / "checkpoints" / name
    save_adapter(begun.model, folder / "adapter", template_text(recipe), begun.base)
    predictions, loss = _measure(recipe, begun, task, validation, answers, name)
    store_answers(run.folder, recipe, task, name, predictions)
    found = measured(name, step.number, loss, task, predictions)
    interval = limits_text(found.interval, ".4g")
    print_status(f"{name}: validation {task.metric} {found.value:.4g} ({interval}), loss {loss:.4f}")
    return found


def _measure(
    recipe: Recipe, begun: TuningSession, task: Task, validation: list[Example], answers: list[Batch], name: str
) -> tuple[list[Prediction], float]:
    """The answers to the validation rows and the loss of their keys; in shards all processes compute them alike."""
    from lotune.train.loop import evaluate_loss

    begun.model.eval()
    with naming_the_row(begun.base.tokenizer, validation, f"validating {name}"):
        loss = evaluate_loss(begun.model, answers)
    title, batch_tokens = f"validating {name}", recipe.evaluate.max_batch_tokens
    remedy, on_too_long = f"lower it, it is {batch_tokens}", recipe.evaluate.on_too_long
    asking = PredictionJob(title, begun.model, begun.base.tokenizer, batch_tokens, on_too_long=on_too_long)
    with (
        oom_names_setting("evaluate.max_batch_tokens", title, remedy),
        answering_block(recipe, begun.model, begun.in_shards),
    ):
        return run_predictions(asking, task, validation), loss


def _tensorboard(run: Run, done: int) -> Any:
    """Return a writer of curves that go on after the `done` steps; what an earlier process wrote of later ones goes."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard"
    if done == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)


def _write_scalars(writer: Any, step: Step) -> None:
    if writer is not None:
        for name in ("loss", "learning_rate", "gradient_norm"):
            writer.add_scalar(f"train/{name}", getattr(step, name), step.number)
        writer.flush()
