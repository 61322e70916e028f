"""Set up a tuning: base with a new adapter, training rows, the plan of its steps, validation rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from lotune.data.collate import Batch, Collator
from lotune.data.rank_split import RankSplit
from lotune.data.samplers import NO_REPLAY, ReplayPool, rows_of_step, tuning_batches
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import encode_row
from lotune.data.tokenizer_training import padding_id
from lotune.distributed import ProcessGroup
from lotune.errors import SettingsError
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
from lotune.model.methods.registry import METHODS
from lotune.model.parts import virtual_ids
from lotune.model.quantization import load_quantized
from lotune.recipe import Recipe
from lotune.settings import is_auto
from lotune.stages.dependencies import stage_inputs
from lotune.stages.replay import divergence_of
from lotune.stages.training_session import TrainingCourse, TrainingSession, enable_features, make_session
from lotune.stages.validation_rows import ValidationRows, retention_validation_rows, task_validation_rows
from lotune.train.schedule import checkpoint_steps, end_early, lr_factors, tuning_steps

if TYPE_CHECKING:
    from lotune.train.resource_estimate import Estimate


@dataclass(frozen=True)
class Plan:
    """The plan of a tuning: its number of steps, the steps with a checkpoint, and the rows of a step."""

    steps: int
    checkpoints: list[int]
    step_rows: int
    pool: ReplayPool = NO_REPLAY
    decisions: tuple[int, ...] = ()
    """Checkpoints at which it may be decided to end early."""


@dataclass(frozen=True)
class TuningSession:
    """A base with the adapter in training; `collator` makes micro-batches of rows."""

    base: LoadedModel
    collator: Collator
    plan: Plan
    session: TrainingSession

    @property
    def model(self) -> Any:
        """The base with its adapter."""
        return self.session.training.model


@dataclass(frozen=True)
class ValidationSet:
    """The rows that checkpoints are validated on; `batches` holds those that fit, with their answers.

    `watched` are the rows on which the retention gate is watched, those of each ability apart.
    """

    rows: ValidationRows
    batches: list[Batch]
    watched: tuple[ValidationRows, ...]


def tuning_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return the inputs of a tuning: settings, the prepared rows, the base's files."""
    folder = base_folder(recipe.base)
    inputs = {**stage_inputs(recipe, "tune"), "rows": recipe.folder / "data" / "train.tokens.json"}
    if folder is not None:
        inputs["base.files"] = folder
    return inputs


def make_plan(recipe: Recipe, rows: int, replayed: int = 0) -> Plan:
    """Return the plan of a tuning on `rows` rows, of which `replayed` are replay rows.

    Raises: SettingsError if it has more checkpoints than steps.
    """
    settings, replay = recipe.tune, recipe.retention.replay.rows_per_epoch
    pool = ReplayPool(replayed, replayed if is_auto(replay) else min(replay, replayed))
    epoch_rows = pool.epoch_rows(rows)
    step_rows = min(settings.micro_batch_rows * settings.gradient_accumulation_steps, epoch_rows)
    steps = tuning_steps(epoch_rows, step_rows, settings.epochs, settings.steps)
    checkpoints = checkpoint_steps(steps, recipe.checkpoints.count)
    decisions: tuple[int, ...] = ()
    may_end = settings.max_divergence is not None or recipe.retention.action == "stop"
    if recipe.checkpoints.spacing == "adaptive" or may_end:
        factors = lr_factors(settings, steps)
        decisions = tuple(step for step in checkpoints if len(end_early(factors, step, settings)) < steps)
    return Plan(steps, checkpoints, step_rows, pool, decisions)


def with_early_end(tuning: TuningSession, decided_at: int) -> TuningSession:
    """Return a tuning that ends early, as decided after a step: its learning rate falls from there on.

    Its last checkpoint stands at its end. The steps up to the decision stay as they were planned.
    """
    session, course = tuning.session, tuning.session.course
    factors = end_early(session.lr_factors, decided_at, session.settings)
    steps = len(factors)
    checkpoints = [*(step for step in tuning.plan.checkpoints if step <= decided_at), steps]

    def batches(first_step: int) -> Iterator[list[Batch]]:
        return islice(course.batches(first_step), steps + 1 - first_step)

    ending = replace(course, steps=steps, checkpoints=checkpoints, batches=batches)
    return replace(
        tuning,
        plan=replace(tuning.plan, steps=steps, checkpoints=checkpoints, decisions=()),
        session=replace(session, course=ending, lr_factors=factors),
    )


def set_up_tuning(recipe: Recipe, world: ProcessGroup, inputs_fingerprint: str = "") -> TuningSession:
    """Load the base, add a new adapter, and return the session of its training.

    Raises: SettingsError if a step has fewer rows than there are processes, or if FSDP would shard quantised weights.
    """
    from lotune.model.checkpoints import init_adapter
    from lotune.train.dropout import drop_by_text

    rows = TokenFile(recipe.folder / "data" / "train")
    plan, device = make_plan(recipe, len(rows), rows.replayed), resolve_device(recipe.device)
    # Each process computes a part of every gradient, so it needs at least one row of every step.
    if plan.step_rows < world.size:
        found, remedy = (
            f"{plan.step_rows} rows per step for {world.size} processes",
            "raise it, or start fewer processes",
        )
        raise SettingsError("tune.micro_batch_rows", found, "at least one row per process", remedy)
    base, in_shards = _load_base(recipe, device, world)
    model: Any = init_adapter(base, recipe.adapter, recipe.seed)
    drop_by_text(model, recipe.seed)
    # The adapter stays whole on every process: it is small, and checkpoints are written without gathering it.
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    packed = enable_features(model, rows, recipe.tune, "tune", world, device, in_shards=in_shards, whole=adapter)
    settings, pad_token_id = recipe.tune, padding_id(base.tokenizer)
    collator = Collator(settings.micro_batch_rows, settings.max_batch_tokens, pad_token_id, packed, virtual_ids(model))
    course = _training_course(recipe, plan, rows, collator, world)
    session = make_session(
        recipe, settings, course, model, world, inputs_fingerprint,
        in_shards=in_shards, autocast_bfloat16=dtype_name(base.dtype) == "bfloat16",
        divergence=divergence_of(recipe), recurring=_recurring_positions(plan, rows),
    )  # fmt: skip
    return TuningSession(base, collator, plan, session)


def _recurring_positions(plan: Plan, rows: TokenFile) -> int:
    """Return the number of scored positions of the replay rows, 0 if most of these are drawn only once."""
    pool, drawn = plan.pool, plan.steps * plan.step_rows
    if drawn * pool.per_epoch < 2 * pool.rows * pool.epoch_rows(len(rows)):
        return 0
    return rows.supervised() - rows.supervised(len(rows) - pool.rows)


def _load_base(recipe: Recipe, device: str, world: ProcessGroup) -> tuple[LoadedModel, bool]:
    """Return the base, and whether to shard its weights; in that case it is still on the CPU."""
    from lotune.train.fsdp import needs_fsdp

    quantization, dtype = recipe.tune.quantization, resolve_dtype(recipe.base.dtype, device)
    # Measured without loading: a base that needs shards may not fit on one GPU.
    weight_bytes = count_parameters(meta_model(recipe.base)) * dtype.itemsize
    in_shards = needs_fsdp(recipe.fsdp, weight_bytes, device, world)
    if in_shards and quantization != "none":
        found, remedy = "sharded weights cannot be quantised", "fsdp=off, or tune.quantization=none"
        raise SettingsError("tune.quantization", found, remedy=remedy)
    if in_shards and recipe.tune.max_divergence is not None:
        found, remedy = "the divergence of sharded weights is not measured", "fsdp=off, or tune.max_divergence=null"
        raise SettingsError("tune.max_divergence", found, remedy=remedy)
    if in_shards and METHODS[recipe.adapter.method].trains_base:
        found, remedy = "weights that are all trained are not sharded", "fsdp=off, or adapter.method=lora"
        raise SettingsError("adapter.method", found, remedy=remedy)
    settings = recipe.base.model_copy(update={"dtype": dtype_name(dtype)})
    return load_quantized(settings, "cpu" if in_shards else device, quantization), in_shards


def _training_course(
    recipe: Recipe, plan: Plan, rows: TokenFile, collator: Collator, world: ProcessGroup
) -> TrainingCourse:
    from lotune.train.loop import TUNING_REMEDY

    def batches(first_step: int) -> Iterator[list[Batch]]:
        return tuning_batches(
            rows, collator, step_rows=plan.step_rows, steps=plan.steps, seed=recipe.seed,
            first_step=first_step, rank_split=RankSplit(world.rank, world.size), pool=plan.pool,
        )  # fmt: skip

    row_ids = partial(_row_ids, rows, plan, recipe.seed)
    return TrainingCourse("tuning", plan.steps, plan.checkpoints, batches, row_ids, TUNING_REMEDY)


def _row_ids(rows: TokenFile, plan: Plan, seed: int, step: int) -> list[str]:
    return rows.ids(rows_of_step(len(rows), plan.step_rows, seed, step, plan.pool))


def estimate_tuning(tuning: TuningSession, recipe: Recipe) -> Estimate:
    """Estimate time, memory and disk space of a tuning from a trial step that changes no weight."""
    from lotune.train.resource_estimate import estimate

    batches = next(tuning.session.course.batches(1))
    merged = {"all": recipe.checkpoints.count, "chosen": 1, "none": 0}[recipe.merged_checkpoints]
    return estimate(
        tuning.model, batches, tuning.plan.steps, recipe.checkpoints.count, merged, tuning.session.objective
    )


def validation_set(recipe: Recipe, tuning: TuningSession) -> ValidationSet:
    """Return the run's validation rows, and micro-batches of those that fit with their references."""
    validation = task_validation_rows(recipe)
    context = context_length(tuning.base.model)
    rows = (encode_row(tuning.base.tokenizer, example) for example in validation.examples)
    # The loss needs prompt and reference in one context, whereas an answer needs only the prompt and its own tokens.
    batches = tuning.collator.batches(row for row in rows if len(row.token_ids) <= context)
    return ValidationSet(validation, batches, retention_validation_rows(recipe))
