"""`lotune pretrain`: a base model from scratch, on text that is generated from a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lotune.data.batches import EncodedRow, encode_row, pretraining_batches
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile, write_token_file
from lotune.errors import SettingsError
from lotune.recipe import Options, Recipe, stage_inputs
from lotune.report.progress import say
from lotune.runs import Run, inputs_mark, open_run, write_json
from lotune.stages.states import STATES, course, go_on
from lotune.train.settings import PretrainSettings

TOKENIZER_DOCUMENTS = 20_000
"""Documents that the tokeniser is trained on."""


def pretrain(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Generate text, train a tokeniser and a model on it, save the model and copy it to `pretrain.publish`.

    Raises: SettingsError where the recipe has no `pretrain` part.
    """
    settings = recipe.pretrain
    if settings is None:
        raise SettingsError("recipe", "has no pretrain part", "pretrain:", "lotune pretrain recipes/nano.yaml")
    with open_run(recipe.folder, recipe) as run:
        inputs = stage_inputs(recipe, "pretrain")
        model_folder = run.folder / "model"
        if run.stage_state("pretrain", inputs) == "done":
            say(f"{run.folder}: pre-training is done; nothing has changed")
        elif options.dry_run:
            return {"documents": settings.documents, "steps": settings.steps}
        else:
            run.forget_stage("pretrain")
            figures = _train(run, settings, recipe, model_folder)
            write_json(run.folder / "pretraining.json", figures)
            run.finish_stage("pretrain", inputs, [model_folder])
            shutil.rmtree(run.folder / STATES, ignore_errors=True)
        if settings.publish is not None:
            publish(model_folder, settings.publish)
        found: dict[str, Any] = json.loads((run.folder / "pretraining.json").read_text())
        return found


def publish(model_folder: Path, target: Path) -> None:
    """Replace the files of `target` that a saved model has by its own; a model card beside them stays."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(model_folder.iterdir()):
        temporary = target / f".{file.name}.tmp"
        shutil.copyfile(file, temporary)
        temporary.replace(target / file.name)
    say(f"copied to {target}")


def _prepare(run: Run, settings: PretrainSettings, seed: int) -> tuple[Any, TokenFile, TokenFile]:
    from transformers import AutoTokenizer

    from lotune.data.tokenizers import train_tokenizer
    from lotune.nano.text import documents, tokenizer_texts

    folder = settings.start or run.folder / "data" / "tokenizer"
    if settings.start is None:
        say("training the tokeniser")
        train_tokenizer(tokenizer_texts(TOKENIZER_DOCUMENTS, seed), settings.config.vocab_size, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    say(f"writing {settings.documents} documents as tokens")
    held_back = max(1, int(settings.documents * settings.validation_share))
    stems = {"train": settings.documents, "validation": held_back}
    files = [
        write_token_file(
            run.folder / "data" / name,
            (_encoded(tokenizer, text) for text in documents(count, seed + number)),
            len(tokenizer),
        )
        for number, (name, count) in enumerate(stems.items())
    ]
    return tokenizer, files[0], files[1]


def _encoded(tokenizer: Any, text: Example) -> EncodedRow:
    """A document's tokens; all but unfinished ones end with end-of-text."""
    from lotune.nano.text import UNFINISHED

    row = encode_row(tokenizer, text)
    return replace(row, tokens=row.tokens[:-1]) if text.kind in UNFINISHED else row


def _train(run: Run, settings: PretrainSettings, recipe: Recipe, model_folder: Path) -> dict[str, Any]:
    import torch

    from lotune.model.attention import use_packed_attention
    from lotune.model.base import count_parameters, resolve_device
    from lotune.model.checkpoints import save_full
    from lotune.train.loop import adamw, mean_loss, muon, train
    from lotune.train.resume import Training
    from lotune.train.schedule import learning_rate_share, warmup_length

    device = resolve_device(recipe.device)
    tokenizer, rows, validation = _prepare(run, settings, recipe.seed)
    torch.manual_seed(recipe.seed)
    model = _first_model(settings, tokenizer).to(device)
    use_packed_attention(model)
    _check_lengths(rows, model.config.max_position_embeddings)
    total_tokens = int(rows.lengths().sum())
    steps = settings.steps or max(1, round(settings.epochs * total_tokens / settings.batch_tokens))
    say(f"{count_parameters(model):,} parameters, {total_tokens:,} tokens, {steps} steps")
    warmup = warmup_length(steps, None, settings.warmup_share)
    shares = [learning_rate_share(step, steps, warmup, "cosine", settings.final_share) for step in range(1, steps + 1)]
    parameters = list(model.parameters())
    if settings.optimizer == "muon":
        optimizers = muon(model, settings.learning_rate, settings.weight_decay)
    else:
        optimizers = adamw(parameters, settings.learning_rate, (0.9, 0.95), 1e-8, settings.weight_decay)
    training = Training(
        model,
        optimizers,
        inputs_mark({**stage_inputs(recipe, "pretrain"), "rows": run.folder / "data" / "train.tokens.npy"}),
    )
    state = go_on(run, training)
    first_step = state.step + 1
    batches = pretraining_batches(
        rows, batch_tokens=settings.batch_tokens, steps=steps, seed=recipe.seed, first_step=first_step
    )
    held_back = list(_validation(validation))
    found = train(
        model,
        batches,
        optimizers,
        shares,
        clip_norm=settings.clip_norm,
        compile=settings.compile,
        first_step=first_step,
    )
    span, minutes = (state.step, steps), recipe.save_every_minutes
    for _ in course(run, "pre-training", found, span, training, dict, minutes=minutes, always=(steps,)):
        pass
    dtype = torch.bfloat16
    save_full(model, tokenizer, model_folder, dtype)
    return {
        "parameters": count_parameters(model), "tokens": total_tokens, "steps": steps,
        "validation_loss": mean_loss(model, held_back),
    }  # fmt: skip


def _check_lengths(rows: TokenFile, context: int) -> None:
    longest = int(rows.lengths().max())
    if longest > context:
        found, remedy = f"a document of {longest} tokens", "raise pretrain.config.max_position_embeddings"
        raise SettingsError("pretrain.config.max_position_embeddings", found, f"{context} at most", remedy)


def _first_model(settings: PretrainSettings, tokenizer: Any) -> Any:
    from lotune.model.base import build_from_config, load_base
    from lotune.model.settings import BaseSettings

    if settings.start is not None:
        return load_base(BaseSettings(model=str(settings.start), dtype="float32"), "cpu").model.requires_grad_(True)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return build_from_config(settings.config.model_dump() | ends)


def _validation(rows: TokenFile) -> Iterator[Any]:
    lengths = int(rows.lengths().sum())
    for batches in pretraining_batches(rows, batch_tokens=8192, steps=max(1, lengths // 8192), seed=0):
        yield from batches
