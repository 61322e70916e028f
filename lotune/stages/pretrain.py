"""`lotune pretrain`: a base model from scratch, on one's own articles or on text that is generated from a seed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.data.collate import Collator
from lotune.data.corpus import Corpus
from lotune.data.rank_split import RankSplit
from lotune.data.samplers import pretraining_batches, pretraining_rows_of_step, steps_for_epochs
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import chunks
from lotune.data.tokenizer_training import padding_id
from lotune.disk_space import format_bytes, require_free_space
from lotune.distributed import ProcessGroup
from lotune.errors import SettingsError
from lotune.files import read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.recipe import Recipe, RunOptions, check_pretraining_paths
from lotune.runs import Run, open_run
from lotune.stages.dependencies import stage_inputs
from lotune.stages.number_formats import Record, explain, keep, settle, with_formats
from lotune.stages.pretraining_corpus import (
    document_inputs,
    ensure_documents,
    num_validation_documents,
    tokenizer_folder,
)
from lotune.stages.pretraining_model import initial_model, meta_model_of
from lotune.stages.training_run import (
    STATES_FOLDER,
    enable_packing_or_warn,
    name_rows_on_nan,
    resume,
    run_steps,
    should_compile,
)
from lotune.train.settings import PretrainSettings

if TYPE_CHECKING:
    from lotune.train.loop import Step
    from lotune.train.train_state import Training

REMEDY = "lower pretrain.micro_batch_tokens, or set pretrain.gradient_checkpointing=true"
"""What to do where a pass finds no memory."""
TRAINED_BYTES = 16
"""Of a trained weight in float32: itself, its gradient and AdamW's two means."""
DOCUMENT_TOKENS, DOCUMENT_BYTES = 260, 64
"""Most of what a document takes in the mean: some 250 tokens with the smallest vocabulary, offsets, answers and id."""


def pretrain(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Train a tokeniser and a model on articles or generated text, save the model and copy it to `pretrain.export_to`.

    Raises: SettingsError where the recipe has no `pretrain` part.
    """
    settings = recipe.pretrain
    if settings is None:
        raise SettingsError("recipe", "has no pretrain part", "pretrain:", "lotune pretrain recipes/nano.yaml")
    check_pretraining_paths(recipe)
    with open_run(recipe.folder, recipe) as run:
        asked, decide = recipe, {"pre-training": partial(_format, settings, recipe.device)}
        recipe, formats = settle(run, asked, stage_inputs(asked, "pretrain"), decide)
        inputs = stage_inputs(recipe, "pretrain")
        model_folder = run.folder / "model"
        if run.stage_state("pretrain", inputs) == "done":
            print_status(f"{run.folder}: pre-training is done; nothing has changed")
        else:
            needed, memory = _disk_bytes(run, settings, recipe), _memory_bytes(settings)
            print_status(f"estimate: {format_bytes(memory)} of memory, {format_bytes(needed)} on disk")
            require_free_space(run.folder, needed, "pre-training", [run.folder / STATES_FOLDER])
            if options.dry_run:
                documents = settings.generated_documents if settings.corpus is None else None
                return {"documents": documents, "steps": settings.steps, "memory_bytes": memory, "disk_bytes": needed}
            run.invalidate_stage("pretrain")
            explain(run, asked, formats, "pre-training")
            keep(run, formats)
            figures = _train(run, recipe, options.world, formats)
            write_json(run.folder / "pretraining.json", figures)
            run.mark_stage_done("pretrain", inputs, [model_folder])
            shutil.rmtree(run.folder / STATES_FOLDER, ignore_errors=True)
        if settings.export_to is not None and not options.dry_run:
            export_model(model_folder, settings.export_to)
        return dict(read_json(run.folder / "pretraining.json"))


def export_model(model_folder: Path, target: Path) -> None:
    """Replace the files of `target` that a saved model has by its own; a model card beside them stays."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(model_folder.iterdir()):
        temporary = target / f".{file.name}.tmp"
        shutil.copyfile(file, temporary)
        temporary.replace(target / file.name)
    print_status(f"copied to {target}")


def _disk_bytes(run: Run, settings: PretrainSettings, recipe: Recipe) -> int:
    """Bytes that the rest of a pre-training writes: its documents unless they are there, states, model and its copy."""
    import torch

    from lotune.model.loading import count_parameters
    from lotune.train.resource_estimate import checkpoint_bytes

    model = meta_model_of(settings)
    models = torch.bfloat16.itemsize * count_parameters(model) * (1 if settings.export_to is None else 2)
    there = run.stage_state("documents", document_inputs(recipe)) == "done"
    token_bytes = 2 if model.config.vocab_size <= 2**16 else 4
    if settings.corpus is not None:
        written = sum(file.stat().st_size for file in Corpus(settings.corpus).files()) * token_bytes
    else:
        documents = settings.generated_documents + num_validation_documents(settings)
        written = documents * (DOCUMENT_TOKENS * token_bytes + DOCUMENT_BYTES)
    return (0 if there else written) + checkpoint_bytes(model, 0, 0) + models


def _memory_bytes(settings: PretrainSettings) -> int:
    from lotune.train.resource_estimate import memory_bytes

    tokens = min(settings.step_tokens, settings.micro_batch_tokens or settings.step_tokens)
    model, recomputed = meta_model_of(settings).requires_grad_(True), settings.gradient_checkpointing
    return memory_bytes(model, tokens, tokens, divided=True, recomputed=recomputed)


def _format(settings: PretrainSettings, device: str) -> Record:
    """The format that this machine makes the products of a pre-training in."""
    from lotune.model.dtype_benchmark import products_of, training_format
    from lotune.model.loading import resolve_device

    tokens = min(settings.step_tokens, settings.micro_batch_tokens or settings.step_tokens)
    found = training_format(resolve_device(device), products_of(meta_model_of(settings), tokens), trains_all=True)
    return found._asdict()


@dataclass(frozen=True)
class PretrainingSession:
    """What a pre-training is done with: its documents, its steps with their shares of the learning rate."""

    tokenizer: Any
    rows: TokenFile
    training: Training
    steps: int
    lr_factors: list[float]
    in_shards: bool
    pad_token_id: int | None
    """What fills up lines; None where rows are packed."""
    autocast_bfloat16: bool
    """Whether products are made in bfloat16."""


def run_as_follower(recipe: Recipe, options: RunOptions) -> None:
    """The part of a process that does not lead in a pre-training: its share of each step; it writes nothing."""
    from lotune.train.train_state import save_states_between, sync_follower

    recipe = with_formats(recipe, options.world.receive())
    assert recipe.pretrain is not None
    begun = _set_up(recipe, recipe.pretrain, options.world, mark="")
    states, minutes = recipe.folder / STATES_FOLDER, recipe.save_every_minutes
    steps = _train_steps(recipe, recipe.pretrain, begun, sync_follower(states, begun.training, recipe.seed))
    for _ in save_states_between(steps, states, begun.training, dict, minutes=minutes, always=(begun.steps,)):
        pass
    if begun.in_shards:
        _finish(recipe, recipe.pretrain, begun)


def _set_up(recipe: Recipe, settings: PretrainSettings, world: ProcessGroup, mark: str) -> PretrainingSession:
    import torch
    from transformers import AutoTokenizer

    from lotune.model.loading import context_length, count_parameters, resolve_device, resolve_dtype
    from lotune.train.fsdp import apply_fsdp, needs_fsdp
    from lotune.train.loop import enable_gradient_checkpointing
    from lotune.train.optimizers import make_optimizers
    from lotune.train.schedule import lr_factors
    from lotune.train.train_state import Training

    device, folder = resolve_device(recipe.device), recipe.folder / "data"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(settings, folder))
    rows = TokenFile(folder / "train")
    torch.manual_seed(recipe.seed)
    model = initial_model(settings, tokenizer)
    _check_lengths(rows, context_length(model))
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model, "pretrain.gradient_checkpointing")
    in_shards = needs_fsdp(recipe.fsdp, TRAINED_BYTES * count_parameters(model), device, world)
    if in_shards:
        _refuse_muon(settings)
        apply_fsdp(model, world, device)
    else:
        model = model.to(device)
    padding = None if enable_packing_or_warn(model, rows) else padding_id(tokenizer)
    steps = settings.steps or steps_for_epochs(
        rows, batch_tokens=settings.step_tokens, seed=recipe.seed, sampling=settings.sampling, epochs=settings.epochs
    )
    training = Training(model, make_optimizers(model, settings), mark, world)
    half = resolve_dtype(settings.autocast_dtype, device) == torch.bfloat16
    return PretrainingSession(tokenizer, rows, training, steps, lr_factors(settings, steps), in_shards, padding, half)


def _refuse_muon(settings: PretrainSettings) -> None:
    if settings.optimizer == "muon":
        found, remedy = "muon turns whole matrices, and these are in shards", "pretrain.optimizer=adamw, or fsdp=off"
        raise SettingsError("pretrain.optimizer", found, "adamw", remedy)


def _train_steps(recipe: Recipe, settings: PretrainSettings, begun: PretrainingSession, done: int) -> Iterator[Step]:
    """The steps after the `done` ones."""
    from lotune.model.loading import resolve_device
    from lotune.train.loop import train
    from lotune.train.loss import CausalLoss

    world = begun.training.world
    compiled = should_compile(settings.compile, resolve_device(recipe.device), begun.in_shards)
    batches = pretraining_batches(
        begun.rows, batch_tokens=settings.step_tokens, steps=begun.steps, seed=recipe.seed, sampling=settings.sampling,
        first_step=done + 1, share=RankSplit(world.rank, world.size), pad_token_id=begun.pad_token_id,
        micro_batch_tokens=settings.micro_batch_tokens,
    )  # fmt: skip
    return train(
        begun.training.model, batches, begun.training.optimizers, begun.lr_factors,
        objective=CausalLoss(begun.training.model, compiled), max_grad_norm=settings.max_grad_norm,
        first_step=done + 1, world=world, remedy=REMEDY, autocast_bfloat16=begun.autocast_bfloat16,
    )  # fmt: skip


def _train(run: Run, recipe: Recipe, world: ProcessGroup, formats: Record) -> dict[str, Any]:
    from lotune.model.loading import count_parameters

    settings = recipe.pretrain
    assert settings is not None
    ensure_documents(run, settings, recipe)
    world.send_to_followers("pretrain")
    world.send_to_followers(formats)
    mark = inputs_fingerprint({**stage_inputs(recipe, "pretrain"), "rows": run.folder / "data" / "train.tokens.json"})
    begun = _set_up(recipe, settings, world, mark)
    parameters, tokens = count_parameters(begun.training.model), int(begun.rows.lengths().sum())
    print_status(f"{parameters:,} parameters, {tokens:,} tokens, {begun.steps} steps")
    done = resume(run, begun.training).step
    steps, span, minutes = _train_steps(recipe, settings, begun, done), (done, begun.steps), recipe.save_every_minutes
    with name_rows_on_nan(partial(_documents_of_step, begun.rows, settings, recipe.seed)):
        for _ in run_steps(
            run, "pre-training", steps, span, begun.training, dict, minutes=minutes, always=(begun.steps,)
        ):
            pass
    loss = _finish(recipe, settings, begun)
    return {
        "parameters": parameters, "tokens": tokens, "steps": begun.steps, "validation_loss": loss,
        **_validation_metrics(begun.tokenizer, TokenFile(recipe.folder / "data" / "validation"), loss),
    }  # fmt: skip


def _validation_metrics(tokenizer: Any, rows: TokenFile, loss: float) -> dict[str, float]:
    """Perplexity a token, and bits a byte of the scored text; the end of a text costs bits and has no bytes."""
    scored = [rows[place] for place in range(len(rows))]
    texts = tokenizer.batch_decode(
        [row.token_ids[max(1, row.completion_start) :] for row in scored], skip_special_tokens=True
    )
    bits = loss / math.log(2) * rows.supervised()
    return {"perplexity": math.exp(loss), "bits_per_byte": bits / max(1, sum(len(text.encode()) for text in texts))}


def _finish(recipe: Recipe, settings: PretrainSettings, begun: PretrainingSession) -> float:
    """Save the model, and give its loss on the documents held back; all processes do it where weights are in shards."""
    import torch

    from lotune.model.checkpoints import save_model
    from lotune.train.fsdp import gather_full_model
    from lotune.train.loop import evaluate_loss

    trained = begun.training
    held_back = TokenFile(recipe.folder / "data" / "validation")
    loss = evaluate_loss(trained.model, _validation(held_back, begun.pad_token_id), REMEDY)
    whole: Any = trained.model
    if begun.in_shards:
        whole = gather_full_model(trained.model, initial_model(settings, begun.tokenizer))
    if trained.world.is_main_process:
        save_model(whole, begun.tokenizer, recipe.folder / "model", torch.bfloat16)
    return loss


def _documents_of_step(rows: TokenFile, settings: PretrainSettings, seed: int, step: int) -> list[str]:
    """Where the documents of a step (from 1) came from: an article's place, or a number in the generated text."""
    places = pretraining_rows_of_step(
        rows, batch_tokens=settings.step_tokens, seed=seed, step=step, sampling=settings.sampling
    )
    return [f"document {name}" for name in rows.ids(places)]


def _check_lengths(rows: TokenFile, context: int) -> None:
    longest = int(rows.lengths().max())
    if longest > context:
        found, remedy = f"a document of {longest} tokens", "raise pretrain.llama_config.max_position_embeddings"
        raise SettingsError("pretrain.llama_config.max_position_embeddings", found, f"{context} at most", remedy)


def _validation(rows: TokenFile, pad_token_id: int | None) -> Iterator[Any]:
    """Every row once."""
    layout = Collator(len(rows), 8192, pad_token_id or 0, packed=pad_token_id is None)
    for places in chunks(range(len(rows)), 512):
        yield from layout.batches(rows[place] for place in places)
