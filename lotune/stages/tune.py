"""`lotune tune`: an adapter trained on the prepared rows, asked at each checkpoint, the best merged and checked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lotune.data.batches import Batch, Layout, encode_row, rows_of_step, tuning_batches
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile
from lotune.data.tokenizers import padding_id
from lotune.disk import require_space
from lotune.errors import SettingsError
from lotune.memory import give_back, naming_the_setting
from lotune.model.base import (
    Base,
    base_folder,
    context_length,
    count_parameters,
    dtype_name,
    empty_model,
    resolve_device,
    resolve_dtype,
)
from lotune.model.quantize import load_quantized
from lotune.recipe import Options, Recipe, check_extras, stage_inputs
from lotune.report.progress import say
from lotune.report.terminal import limits_text
from lotune.runs import Run, append_jsonl, inputs_mark, read_json, write_json
from lotune.stages.asking import Asking, answering_block, ask
from lotune.stages.merging import ensure_merged, template_text
from lotune.stages.number_formats import explain, formats_of_tuning, keep, settle, with_formats
from lotune.stages.prepare import ensure_prepared, opened, read_examples
from lotune.stages.states import METRICS, STATES, course, go_on, naming_rows, naming_the_row, takes_packed
from lotune.stages.validate import ANSWERS, Validated, ensure_validated, measured, store_answers
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task
from lotune.train.parallel import World
from lotune.train.schedule import checkpoint_steps, learning_rate_share, tuning_steps, warmup_length

if TYPE_CHECKING:
    from lotune.evaluate.predict import Prediction
    from lotune.train.estimate import Estimate
    from lotune.train.loop import Step
    from lotune.train.resume import Training


@dataclass(frozen=True)
class Plan:
    """The course of a tuning: its steps, when checkpoints are due, rows and shares of the learning rate a step."""

    steps: int
    checkpoints: list[int]
    step_rows: int
    shares: list[float]


@dataclass(frozen=True)
class Begun:
    """What a tuning is done with; `in_shards`: the processes of `world` divide the base's weights."""

    base: Base
    model: Any
    rows: TokenFile
    layout: Layout
    plan: Plan
    world: World
    in_shards: bool


def tune(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train and validate the adapter, unless it is there; prepares the data first where needed."""
    with opened(recipe, options) as (run, recipe):
        ensure_prepared(run, recipe)
        return ensure_tuned(run, recipe, options)


def ensure_tuned(run: Run, recipe: Recipe, options: Options) -> dict[str, Any]:
    """What tuning, validation and merging found, each done anew where it is missing or what it depends on changed."""
    asked, path = recipe, run.folder / "training.json"
    recipe, formats = settle(run, asked, tuning_inputs(run, asked), formats_of_tuning(asked))
    inputs = tuning_inputs(run, recipe)
    if run.stage_state("tune", inputs) != "done" or not path.exists():
        check_extras(recipe)
        explain(run, asked, formats, "tuning")
        options.world.tell("tune")
        options.world.tell(formats)
        begun = _begin(recipe, options.world)
        forecast = _estimate(begun, recipe)
        say(forecast.describe())
        require_space(run.folder, forecast.disk_bytes, "tuning", [run.folder / "checkpoints", run.folder / STATES])
        if options.dry_run:
            return {"estimate": asdict(forecast)}
        run.forget_stage("tune")
        keep(run, formats)
        summary = _train(run, recipe, begun)
        write_json(path, summary)
        adapters = [run.folder / "checkpoints" / one["name"] / "adapter" for one in summary["checkpoints"]]
        run.finish_stage("tune", inputs, [path, *adapters])
        shutil.rmtree(run.folder / STATES, ignore_errors=True)
        del begun
        give_back()
    if options.dry_run:
        trained: dict[str, Any] = read_json(path)
        return trained
    found = ensure_validated(run, recipe)
    return found | {"merge_checks": ensure_merged(run, recipe, found)}


def take_part(recipe: Recipe, options: Options) -> None:
    """The part of a process that does not lead in a tuning: its share of each step; it writes nothing."""
    from lotune.train.resume import catch_up, watched

    recipe = with_formats(recipe, options.world.hear())
    begun = _begin(recipe, options.world)
    if begun.in_shards:
        _estimate(begun, recipe)
    if options.dry_run:
        return
    training = _training(recipe, begun, mark="")
    done = catch_up(recipe.folder / STATES, training, recipe.seed)
    task, validation, answers = _asked(recipe, begun)
    minutes, always = recipe.save_every_minutes, begun.plan.checkpoints
    steps = _train_steps(recipe, begun, training, done)
    for step in watched(steps, recipe.folder / STATES, training, dict, minutes=minutes, always=always):
        if begun.in_shards and step.number in always:
            _measure(recipe, begun, task, validation, answers, f"step {step.number}")


def _begin(recipe: Recipe, world: World) -> Begun:
    """Base, fresh adapter, rows and plan. Raises: SettingsError where a step has fewer rows than processes."""
    from lotune.model.checkpoints import start_adapter
    from lotune.train.dropout import drop_by_text
    from lotune.train.shard import needs_shards, shard

    rows = TokenFile(recipe.folder / "data" / "train")
    plan, device = make_plan(recipe, len(rows)), resolve_device(recipe.device)
    if plan.step_rows < world.size:
        found, remedy = f"{plan.step_rows} rows a step for {world.size} processes", "raise it, or start fewer"
        raise SettingsError("tune.batch_rows", found, "a row for each process", remedy)
    empty, dtype = empty_model(recipe.base), resolve_dtype(recipe.base.dtype, device)
    in_shards = needs_shards(recipe.shard, count_parameters(empty) * dtype.itemsize, device, world)
    settings = recipe.base.model_copy(update={"dtype": dtype_name(dtype)})
    if in_shards and recipe.tune.quantize != "no":
        found, remedy = "weights in shards are not quantised", "shard=no, or tune.quantize=no"
        raise SettingsError("tune.quantize", found, remedy=remedy)
    base = load_quantized(settings, "cpu" if in_shards else device, recipe.tune.quantize)
    model: Any = start_adapter(base, recipe.adapter, recipe.seed)
    drop_by_text(model, recipe.seed)
    if in_shards:
        shard(model, world, device, [parameter for parameter in model.parameters() if parameter.requires_grad])
    return Begun(base, model, rows, _layout(model, base, rows, recipe), plan, world, in_shards)


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
    step_rows = min(settings.batch_rows * settings.accumulation, rows)
    steps = tuning_steps(rows, step_rows, settings.epochs, settings.steps)
    warmup = warmup_length(steps, settings.warmup_steps, settings.warmup_share)
    shares = [
        learning_rate_share(step, steps, warmup, settings.schedule, settings.final_share)
        for step in range(1, steps + 1)
    ]
    return Plan(steps, checkpoint_steps(steps, recipe.checkpoints.count), step_rows, shares)


def _layout(model: Any, base: Base, rows: TokenFile, recipe: Recipe) -> Layout:
    """Packed lines where the model can take them, padded rows otherwise."""
    from lotune.train.loop import recompute_activations

    settings = recipe.tune
    if settings.gradient_checkpointing:
        recompute_activations(model, "tune.gradient_checkpointing")
    packed = takes_packed(model, rows)
    return Layout(settings.batch_rows, settings.batch_tokens, padding_id(base.tokenizer), packed)


def _batches(begun: Begun, recipe: Recipe, first_step: int = 1) -> Iterator[list[Any]]:
    plan = begun.plan
    return tuning_batches(
        begun.rows, begun.layout, step_rows=plan.step_rows, steps=plan.steps, seed=recipe.seed,
        first_step=first_step, share=begun.world.share,
    )  # fmt: skip


def _estimate(begun: Begun, recipe: Recipe) -> Estimate:
    from lotune.train.estimate import estimate

    batches = next(_batches(begun, recipe))
    merged = {"all": recipe.checkpoints.count, "chosen": 1, "none": 0}[recipe.checkpoints.merged]
    return estimate(begun.model, batches, begun.plan.steps, recipe.checkpoints.count, merged)


def _training(recipe: Recipe, begun: Begun, mark: str) -> Training:
    import torch

    from lotune.train.loop import adamw
    from lotune.train.resume import Training

    one = recipe.tune
    parameters = [parameter for parameter in begun.model.parameters() if parameter.requires_grad]
    optimizers = adamw(parameters, one.learning_rate, (one.beta1, one.beta2), one.epsilon, one.weight_decay)
    torch.manual_seed(recipe.seed)
    return Training(begun.model, optimizers, mark, begun.world)


def _asked(recipe: Recipe, begun: Begun) -> tuple[Task, list[Example], list[Batch]]:
    """The task, the rows that checkpoints are validated on, and those that fit with their answers, as batches."""
    validation = read_examples(recipe.folder / "data" / "validation.jsonl")
    rows, context = (encode_row(begun.base.tokenizer, one) for one in validation), context_length(begun.base.model)
    answers = begun.layout.batches(row for row in rows if len(row.tokens) <= context)
    return build_task(recipe.task), validation, answers


def _train(run: Run, recipe: Recipe, begun: Begun) -> dict[str, Any]:
    from lotune.model.adapters import trainable_count

    model, plan = begun.model, begun.plan
    task, validation, answers = _asked(recipe, begun)
    trainable, total = trainable_count(model), count_parameters(model) - trainable_count(model)
    say(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.3%}), {plan.steps} steps")
    training = _training(recipe, begun, inputs_mark(tuning_inputs(run, recipe)))
    state = go_on(run, training)
    found = [Validated(**one) for one in state.notes.get("found", [])]
    if state.step == 0:
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(run.folder / ANSWERS, ignore_errors=True)
    started = time.monotonic() - state.notes.get("seconds", 0.0)

    def notes() -> dict[str, Any]:
        return {"found": [asdict(one) for one in found], "seconds": time.monotonic() - started}

    with naming_rows(partial(_rows_of_step, begun.rows, plan, recipe.seed)):
        for step in _steps(run, recipe, begun, training, state.step, notes):
            if step.number in plan.checkpoints:
                found.append(_checkpoint(run, recipe, begun, task, validation, answers, step))
                append_jsonl(run.folder / METRICS, {"validation": asdict(found[-1])})
    return {
        "steps": plan.steps, "trainable": trainable, "total": total, "seconds": time.monotonic() - started,
        "checkpoints": [{"name": one.name, "step": one.step, "loss": one.loss} for one in found],
    }  # fmt: skip


def _rows_of_step(rows: TokenFile, plan: Plan, seed: int, step: int) -> list[str]:
    """Where the rows of a step (from 1) came from."""
    return rows.ids(rows_of_step(len(rows), plan.step_rows, seed, step))


def _train_steps(recipe: Recipe, begun: Begun, training: Training, done: int) -> Iterator[Step]:
    """The steps after the `done` ones."""
    import torch

    from lotune.train.loop import train

    settings = recipe.tune
    on_gpu = resolve_device(recipe.device).startswith("cuda")
    return train(
        training.model,
        _batches(begun, recipe, done + 1),
        training.optimizers,
        begun.plan.shares,
        clip_norm=settings.clip_norm,
        compile=settings.compile == "yes" or (settings.compile == "auto" and on_gpu and not begun.in_shards),
        first_step=done + 1,
        world=begun.world,
        half=begun.base.dtype == torch.bfloat16,
    )


def _steps(run: Run, recipe: Recipe, begun: Begun, training: Training, done: int, notes: Any) -> Iterator[Step]:
    """The steps after the `done` ones, shown, logged, and their state saved where that is due."""
    writer = _tensorboard(run, done) if recipe.tune.tensorboard else None
    steps, plan = _train_steps(recipe, begun, training, done), begun.plan
    minutes, always = recipe.save_every_minutes, plan.checkpoints
    for step in course(run, "tuning", steps, (done, plan.steps), training, notes, minutes=minutes, always=always):
        _write_scalars(writer, step)
        yield step
    if writer is not None:
        writer.close()


def _checkpoint(
    run: Run,
    recipe: Recipe,
    begun: Begun,
    task: Task,
    validation: list[Example],
    answers: list[Batch],
    step: Step,
) -> Validated:
    """Save the adapter, measure it on the validation rows and store its answers."""
    from lotune.model.checkpoints import save_adapter

    name = f"step-{step.number:06d}"
    folder = run.folder / "checkpoints" / name
    save_adapter(begun.model, folder / "adapter", template_text(recipe), begun.base)
    predictions, loss = _measure(recipe, begun, task, validation, answers, name)
    store_answers(run.folder, recipe, task, name, predictions)
    found = measured(name, step.number, loss, task, predictions)
    interval = limits_text(found.interval, ".4g")
    say(f"{name}: validation {task.metric} {found.value:.4g} ({interval}), loss {loss:.4f}")
    return found


def _measure(
    recipe: Recipe, begun: Begun, task: Task, validation: list[Example], answers: list[Batch], name: str
) -> tuple[list[Prediction], float]:
    """The answers to the validation rows and the loss of their keys; in shards all processes compute them alike."""
    from lotune.train.loop import mean_loss

    begun.model.eval()
    with naming_the_row(begun.base.tokenizer, validation, f"validating {name}"):
        loss = mean_loss(begun.model, answers)
    title, batch_tokens = f"validating {name}", recipe.evaluate.batch_tokens
    remedy, on_too_long = f"lower it, it is {batch_tokens}", recipe.evaluate.on_too_long
    asking = Asking(title, begun.model, begun.base.tokenizer, batch_tokens, on_too_long=on_too_long)
    with (
        naming_the_setting("evaluate.batch_tokens", title, remedy),
        answering_block(recipe, begun.model, begun.in_shards),
    ):
        return ask(asking, task, validation), loss


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
