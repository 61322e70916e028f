"""`lotune pretrain`: a base model from scratch, on the user's articles or on text generated from a seed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from lotune.console import print_status
from lotune.data.collate import Batch, without_targets
from lotune.data.corpus import Corpus
from lotune.data.rank_split import RankSplit
from lotune.data.samplers import SamplingOrder, pretraining_batches, pretraining_rows_of_step, steps_for_epochs
from lotune.data.token_files import TokenFile
from lotune.data.tokenizer_training import padding_id
from lotune.disk_space import format_bytes, require_free_space
from lotune.distributed import ProcessGroup
from lotune.errors import SettingsError
from lotune.files import read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.recipe import Recipe, RunOptions, check_extras, check_pretraining_paths
from lotune.runs import Run, open_run
from lotune.stages.continuations import measure_continuations, write_continuations
from lotune.stages.dependencies import stage_inputs
from lotune.stages.pretraining_corpus import (
    document_inputs,
    ensure_documents,
    num_validation_documents,
    tokenizer_folder,
)
from lotune.stages.pretraining_model import initial_model, meta_model_of, parameter_lines
from lotune.stages.pretraining_validation import (
    BEST_FOLDER,
    HeldOutBlocks,
    PretrainingWatch,
    unscored_id,
    validation_steps,
)
from lotune.stages.report import write_pretraining_report
from lotune.stages.run_dtypes import Record, print_dtype_reason, resolve_run_dtypes, store_dtypes, with_dtypes
from lotune.stages.tensorboard_curves import tensorboard_curves
from lotune.stages.training_session import (
    STATES_FOLDER,
    TrainingCourse,
    TrainingSession,
    enable_features,
    follow,
    lead,
    make_session,
    resume,
    resume_follower,
)
from lotune.train.settings import PretrainSettings

PRETRAINING_OOM_REMEDY = "lower pretrain.micro_batch_tokens, or set pretrain.gradient_checkpointing=true"
"""Remedy if a forward or backward pass runs out of memory."""
TRAINED_BYTES = 16
"""Bytes of a trained weight in float32: itself, its gradient and AdamW's two means."""
DOCUMENT_TOKENS, DOCUMENT_BYTES = 260, 64
"""Upper bounds of a document's mean size: tokens, with the smallest vocabulary; bytes of offsets, answers and id."""


def pretrain(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Train a tokeniser and a model on articles or generated text, save the model and copy it to `pretrain.export_to`.

    Raises: SettingsError if the recipe has no `pretrain` part.
    """
    settings = recipe.pretrain
    if settings is None:
        raise SettingsError(
            "recipe", "has no pretrain settings", "a group `pretrain:`", "copy some with `lotune init --from nano`"
        )
    check_pretraining_paths(recipe)
    check_extras(recipe)
    with open_run(recipe.folder, recipe) as run:
        given, deciders = recipe, {"pre-training": partial(_faster_dtype, settings, recipe.device)}
        recipe, dtypes = resolve_run_dtypes(run, given, stage_inputs(given, "pretrain"), deciders)
        inputs = stage_inputs(recipe, "pretrain")
        model_folder = run.folder / "model"
        if run.stage_state("pretrain", inputs) == "done":
            print_status(f"{run.folder}: pre-training is done; nothing has changed")
        else:
            needed, memory = _disk_bytes(run, settings, recipe), _memory_bytes(settings)
            shape = parameter_lines(meta_model_of(settings))
            print_status(f"estimate: {format_bytes(memory)} of memory, {format_bytes(needed)} on disk; {shape}")
            require_free_space(run.folder, needed, "pre-training", [run.folder / STATES_FOLDER])
            if options.dry_run:
                documents = settings.generated_documents if settings.corpus is None else None
                return {"documents": documents, "steps": settings.steps, "memory_bytes": memory, "disk_bytes": needed}
            run.invalidate_stage("pretrain")
            print_dtype_reason(run, given, dtypes, "pre-training")
            store_dtypes(run, dtypes)
            figures = _train(run, recipe, options.world, dtypes)
            write_json(run.folder / "pretraining.json", figures)
            run.mark_stage_done("pretrain", inputs, [model_folder])
            # After the stage is done: a crash before that resumes from these states.
            shutil.rmtree(run.folder / STATES_FOLDER, ignore_errors=True)
        if not options.dry_run:
            write_pretraining_report(run.folder)
        if settings.export_to is not None and not options.dry_run:
            export_model(model_folder, settings.export_to)
        return dict(read_json(run.folder / "pretraining.json"))


def export_model(model_folder: Path, target: Path) -> None:
    """Copy a saved model into `target`, over files of the same names; a model card beside them stays."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(model_folder.iterdir()):
        # Renamed when complete, as the target may be a model that another process loads.
        temporary = target / f".{file.name}.tmp"
        shutil.copyfile(file, temporary)
        temporary.replace(target / file.name)
    print_status(f"copied to {target}")


def _disk_bytes(run: Run, settings: PretrainSettings, recipe: Recipe) -> int:
    """Return the bytes that a pre-training still writes: documents unless the run has them, states, model, its copy."""
    import torch

    from lotune.model.loading import count_parameters
    from lotune.train.resource_estimate import checkpoint_bytes

    model = meta_model_of(settings)
    models = torch.bfloat16.itemsize * count_parameters(model) * (2 if settings.export_to is None else 3)
    has_documents = run.stage_state("documents", document_inputs(recipe)) == "done"
    token_bytes = 2 if model.config.vocab_size <= 2**16 else 4
    if settings.corpus is not None:
        written = sum(file.stat().st_size for file in Corpus(settings.corpus).files()) * token_bytes
    else:
        documents = settings.generated_documents + num_validation_documents(settings)
        written = documents * (DOCUMENT_TOKENS * token_bytes + DOCUMENT_BYTES)
    return (0 if has_documents else written) + checkpoint_bytes(model, 0, 0) + models


def _memory_bytes(settings: PretrainSettings) -> int:
    from lotune.train.resource_estimate import memory_bytes

    # Activations take most of the memory, and they exist for one micro-batch at a time.
    tokens = min(settings.step_tokens, settings.micro_batch_tokens or settings.step_tokens)
    model, recomputed = meta_model_of(settings).requires_grad_(True), settings.gradient_checkpointing
    return memory_bytes(model, tokens, tokens, divided=True, recomputed=recomputed)


def _faster_dtype(settings: PretrainSettings, device: str) -> Record:
    """Return the dtype in which this machine makes the matrix products of a pre-training faster."""
    from lotune.model.dtype_benchmark import choose_training_dtype, matrix_products
    from lotune.model.loading import resolve_device

    tokens = min(settings.step_tokens, settings.micro_batch_tokens or settings.step_tokens)
    decision = choose_training_dtype(
        resolve_device(device), matrix_products(meta_model_of(settings), tokens), trains_all=True
    )
    return decision._asdict()


@dataclass(frozen=True)
class PretrainingSession:
    """A model in pre-training, with its tokeniser and its rows."""

    tokenizer: Any
    rows: TokenFile
    session: TrainingSession
    pad_token_id: int | None
    """Token id of the padding; None if rows are packed."""

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self.session.training.model


def follow_pretraining(recipe: Recipe, options: RunOptions) -> None:
    """Join the main process's pre-training: compute a part of each step, and write nothing."""
    recipe = with_dtypes(recipe, options.world.receive())
    assert recipe.pretrain is not None
    pretraining = _set_up(recipe, recipe.pretrain, options.world, inputs_fingerprint="")
    watch = _watch(recipe, recipe.pretrain, pretraining)
    for step in follow(pretraining.session, resume_follower(pretraining.session)):
        if _validate_if_due(pretraining, watch, step.number):
            break
    if pretraining.session.in_shards:
        _finish(recipe, recipe.pretrain, pretraining)


def _set_up(
    recipe: Recipe, settings: PretrainSettings, world: ProcessGroup, inputs_fingerprint: str
) -> PretrainingSession:
    """Return the training session of a model on the run's documents.

    Raises: SettingsError if a document is longer than the context, or if muon would train sharded weights.
    """
    import torch
    from transformers import AutoTokenizer

    from lotune.model.loading import context_length, count_parameters, resolve_device, resolve_dtype
    from lotune.train.fsdp import needs_fsdp

    device, folder = resolve_device(recipe.device), recipe.folder / "data"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(settings, folder))
    rows = TokenFile(folder / "train")
    # Every process draws the same initial weights: sharding divides them without sending them first.
    torch.manual_seed(recipe.seed)
    model = initial_model(settings, tokenizer)
    _check_lengths(rows, context_length(model))
    in_shards = needs_fsdp(recipe.fsdp, TRAINED_BYTES * count_parameters(model), device, world)
    if in_shards:
        _refuse_muon(settings)
    else:
        model = model.to(device)
    packed = enable_features(model, rows, settings, "pretrain", world, device, in_shards=in_shards)
    pad_token_id = None if packed else padding_id(tokenizer)
    course = _training_course(recipe, settings, rows, pad_token_id, world, unscored_id(settings, tokenizer))
    session = make_session(
        recipe, settings, course, model, world, inputs_fingerprint,
        in_shards=in_shards, autocast_bfloat16=resolve_dtype(settings.autocast_dtype, device) == torch.bfloat16,
    )  # fmt: skip
    return PretrainingSession(tokenizer, rows, session, pad_token_id)


def _refuse_muon(settings: PretrainSettings) -> None:
    if settings.optimizer == "muon":
        found, remedy = "muon needs whole matrices, and FSDP shards them", "pretrain.optimizer=adamw, or fsdp=off"
        raise SettingsError("pretrain.optimizer", found, "adamw", remedy)


def _training_course(
    recipe: Recipe,
    settings: PretrainSettings,
    rows: TokenFile,
    pad_token_id: int | None,
    world: ProcessGroup,
    unscored: int | None,
) -> TrainingCourse:
    sampling: _Sampling = {"batch_tokens": settings.step_tokens, "seed": recipe.seed, "sampling": settings.sampling}
    steps = settings.steps or steps_for_epochs(rows, **sampling, epochs=settings.epochs)

    def batches(first_step: int) -> Iterator[list[Batch]]:
        drawn = pretraining_batches(
            rows, **sampling, steps=steps, first_step=first_step, rank_split=RankSplit(world.rank, world.size),
            pad_token_id=pad_token_id, micro_batch_tokens=settings.micro_batch_tokens,
        )  # fmt: skip
        return ([without_targets(batch, unscored) for batch in step] for step in drawn)

    def row_ids(step: int) -> list[str]:
        indices = pretraining_rows_of_step(rows, **sampling, step=step)
        return [f"document {name}" for name in rows.ids(indices)]

    checkpoints = validation_steps(steps, settings.validate_every)
    return TrainingCourse("pre-training", steps, checkpoints, batches, row_ids, PRETRAINING_OOM_REMEDY)


class _Sampling(TypedDict):
    """Arguments that decide which rows each step samples."""

    batch_tokens: int
    seed: int
    sampling: SamplingOrder


def _train(run: Run, recipe: Recipe, world: ProcessGroup, dtypes: Record) -> dict[str, Any]:
    from lotune.model.loading import count_parameters

    settings = recipe.pretrain
    assert settings is not None
    ensure_documents(run, settings, recipe)
    world.send_to_followers("pretrain")
    world.send_to_followers(dtypes)
    inputs = {**stage_inputs(recipe, "pretrain"), "rows": run.folder / "data" / "train.tokens.json"}
    pretraining = _set_up(recipe, settings, world, inputs_fingerprint(inputs))
    parameters, tokens = count_parameters(pretraining.model), int(pretraining.rows.lengths().sum())
    steps = pretraining.session.course.steps
    in_epoch = steps_for_epochs(pretraining.rows, batch_tokens=settings.step_tokens, seed=recipe.seed)
    print_status(f"{parameter_lines(pretraining.model)}, {tokens:,} tokens, {steps} steps, {in_epoch} in an epoch")
    watch = _watch(recipe, settings, pretraining)
    done = resume(pretraining.session).step
    watch.resume(done)
    with tensorboard_curves(run.folder, settings.tensorboard) as draw:
        for step in lead(pretraining.session, done):
            draw(step)
            done = step.number
            if _validate_if_due(pretraining, watch, done):
                break
    _finish(recipe, settings, pretraining)
    last, best = watch.records[-1], watch.best
    continuations = _continuations(run, recipe, pretraining)
    if best.step == last.step:
        shutil.rmtree(run.folder / BEST_FOLDER, ignore_errors=True)
    else:
        print_status(f"step {best.step} was best on validation: {run.folder / BEST_FOLDER}")
    return {
        "parameters": parameters, "tokens": tokens, "steps": done, "validation_loss": last.loss,
        "perplexity": last.perplexity, "bits_per_byte": last.bits_per_byte, "best": asdict(best),
        "continuations": continuations,
    }  # fmt: skip


def _continuations(run: Run, recipe: Recipe, pretraining: PretrainingSession) -> dict[str, Any]:
    """Return the figures of the finished model's continuations of held-out articles, and store them; empty without."""
    settings = recipe.pretrain
    assert settings is not None
    if settings.corpus is None or not settings.continuation_rows or pretraining.session.in_shards:
        return {}
    rows = TokenFile(run.folder / "data" / "validation")
    written = measure_continuations(pretraining.model, pretraining.tokenizer, rows, settings, recipe.seed)
    return write_continuations(run.folder, written)


def _watch(recipe: Recipe, settings: PretrainSettings, pretraining: PretrainingSession) -> PretrainingWatch:
    held_out = HeldOutBlocks(
        TokenFile(recipe.folder / "data" / "validation"),
        pretraining.tokenizer,
        pretraining.pad_token_id,
        unscored_id(settings, pretraining.tokenizer),
    )
    return PretrainingWatch(recipe.folder, settings, held_out, recipe.seed, PRETRAINING_OOM_REMEDY)


def _validate_if_due(pretraining: PretrainingSession, watch: PretrainingWatch, step: int) -> bool:
    """Validate after a step if it is due, and return whether the pre-training ends; all processes call it."""
    session, world = pretraining.session, pretraining.session.training.world
    if step not in session.course.checkpoints:
        return False
    if not world.is_main_process:
        if session.in_shards:
            watch.validate(pretraining.model, step, leads=False, in_shards=True)
        return bool(world.receive())
    watch.validate(pretraining.model, step, leads=True, in_shards=session.in_shards)
    world.send_to_followers(watch.has_ended)
    return watch.has_ended


def _finish(recipe: Recipe, settings: PretrainSettings, pretraining: PretrainingSession) -> None:
    """Save the model; sharded, all processes call it."""
    import torch

    from lotune.model.checkpoints import save_model
    from lotune.train.fsdp import gather_full_model

    model = pretraining.model
    if pretraining.session.in_shards:
        model = gather_full_model(model, initial_model(settings, pretraining.tokenizer))
    if pretraining.session.training.world.is_main_process:
        save_model(model, pretraining.tokenizer, recipe.folder / "model", torch.bfloat16)


def _check_lengths(rows: TokenFile, context: int) -> None:
    longest = int(rows.lengths().max())
    if longest > context:
        found, remedy = f"a document of {longest} tokens", "raise pretrain.llama_config.max_position_embeddings"
        raise SettingsError("pretrain.llama_config.max_position_embeddings", found, f"{context} at most", remedy)
