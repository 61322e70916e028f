"""`lotune pretrain`: a base model from scratch, on text that is generated from a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.data.batches import EncodedRow, documents_of_step, pretraining_batches
from lotune.data.encoding import encode_rows
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile, write_token_file
from lotune.disk import require_space
from lotune.errors import SettingsError
from lotune.recipe import Options, Recipe, stage_inputs
from lotune.report.progress import say
from lotune.runs import Run, inputs_mark, open_run, write_json
from lotune.stages.states import STATES, course, go_on, naming_rows
from lotune.train.parallel import World
from lotune.train.settings import PretrainSettings

if TYPE_CHECKING:
    from lotune.train.loop import Step
    from lotune.train.resume import Training

TOKENIZER_DOCUMENTS = 20_000
"""Documents that the tokeniser is trained on, at most."""
TRAINED_BYTES = 16
"""Of a trained weight in float32: itself, its gradient and AdamW's two means."""
DOCUMENT_TOKENS, DOCUMENT_BYTES = 220, 64
"""Most of what a document takes in the mean: 214 tokens with the smallest vocabulary, offsets, answers and id."""
DOCUMENT_KEYS = (
    *("seed", "pretrain.documents", "pretrain.validation_share", "pretrain.config.vocab_size", "pretrain.start"),
)
"""The settings that tokeniser and documents depend on."""
DOCUMENT_CODE = ("data", "nano/text.py", "tasks")
"""The code below the package that writes the text and makes tokens of it."""


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
        else:
            needed = _disk_bytes(run, settings, recipe)
            require_space(run.folder, needed, "pre-training", [run.folder / STATES])
            if options.dry_run:
                return {"documents": settings.documents, "steps": settings.steps, "disk_bytes": needed}
            run.forget_stage("pretrain")
            figures = _train(run, settings, recipe, options.world)
            write_json(run.folder / "pretraining.json", figures)
            run.finish_stage("pretrain", inputs, [model_folder])
            shutil.rmtree(run.folder / STATES, ignore_errors=True)
        if settings.publish is not None and not options.dry_run:
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


def _disk_bytes(run: Run, settings: PretrainSettings, recipe: Recipe) -> int:
    """Bytes that the rest of a pre-training writes: its documents unless they are there, states, model and its copy."""
    import torch

    from lotune.model.base import build_from_config, count_parameters, empty_model
    from lotune.model.settings import BaseSettings
    from lotune.train.estimate import disk_bytes

    if settings.start is not None:
        model: Any = empty_model(BaseSettings(model=str(settings.start)))
    else:
        with torch.device("meta"):
            model = build_from_config(settings.config.model_dump())
    models = torch.bfloat16.itemsize * count_parameters(model) * (1 if settings.publish is None else 2)
    there = run.stage_state("documents", document_inputs(recipe)) == "done"
    token_bytes = 2 if model.config.vocab_size <= 2**16 else 4
    written = 0 if there else settings.documents + _held_back(settings)
    return written * (DOCUMENT_TOKENS * token_bytes + DOCUMENT_BYTES) + disk_bytes(model, 0, 0) + models


def document_inputs(recipe: Recipe) -> dict[str, Any]:
    """What tokeniser and documents are made from: settings, and the code that generates and encodes them."""
    settings = {key: value for key, value in stage_inputs(recipe, "pretrain").items() if key in DOCUMENT_KEYS}
    code = {f"lotune/{name}": Path(__file__).parents[1] / name for name in DOCUMENT_CODE}
    return {**settings, **code, "tokenizer_documents": TOKENIZER_DOCUMENTS}


def _documents(run: Run, settings: PretrainSettings, recipe: Recipe) -> tuple[Any, TokenFile, TokenFile]:
    """The tokeniser, and the documents to train and to validate on; those of the run where they are whole and fit."""
    from transformers import AutoTokenizer

    folder, inputs = run.folder / "data", document_inputs(recipe)
    tokenizer_folder = settings.start or folder / "tokenizer"
    if run.stage_state("documents", inputs) == "done":
        say(f"tokeniser and documents are those in {folder}")
    else:
        for change in run.changes("documents", inputs):
            say(f"changed: {change} (the documents are made again)")
        run.forget_stage("documents")
        if settings.start is None:
            _train_tokenizer(settings, recipe.seed, tokenizer_folder)
        _write_documents(AutoTokenizer.from_pretrained(tokenizer_folder), settings, recipe.seed, folder)
        run.finish_stage("documents", inputs, [folder])
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    return tokenizer, TokenFile(folder / "train"), TokenFile(folder / "validation")


def _train_tokenizer(settings: PretrainSettings, seed: int, folder: Path) -> None:
    from lotune.data.tokenizers import train_tokenizer
    from lotune.nano.text import tokenizer_texts

    say("training the tokeniser")
    texts = tokenizer_texts(min(TOKENIZER_DOCUMENTS, settings.documents), seed)
    train_tokenizer(texts, settings.config.vocab_size, folder)


def _write_documents(tokenizer: Any, settings: PretrainSettings, seed: int, folder: Path) -> None:
    from lotune.nano.text import documents

    say(f"writing {settings.documents} documents as tokens")
    counts = {"train": settings.documents, "validation": _held_back(settings)}
    for number, (name, count) in enumerate(counts.items()):
        rows = _encoded(tokenizer, documents(count, seed + number))
        write_token_file(folder / name, rows, len(tokenizer))


def _held_back(settings: PretrainSettings) -> int:
    """Documents to validate on."""
    return max(1, int(settings.documents * settings.validation_share))


def _encoded(tokenizer: Any, texts: Iterable[Example]) -> Iterator[EncodedRow]:
    """Documents as tokens; all but unfinished ones end with end-of-text."""
    from lotune.nano.text import UNFINISHED

    texts, encoded = tee(texts)
    for text, row in zip(texts, encode_rows(tokenizer, encoded), strict=True):
        yield replace(row, tokens=row.tokens[:-1]) if text.kind in UNFINISHED else row


@dataclass(frozen=True)
class Begun:
    """What a pre-training is done with: its documents, its steps with their shares of the learning rate."""

    tokenizer: Any
    rows: TokenFile
    training: Training
    steps: int
    shares: list[float]
    in_shards: bool


def take_part(recipe: Recipe, options: Options) -> None:
    """The part of a process that does not lead in a pre-training: its share of each step; it writes nothing."""
    from lotune.train.resume import catch_up, watched

    assert recipe.pretrain is not None
    begun = _begin(recipe, recipe.pretrain, options.world, mark="")
    states, minutes = recipe.folder / STATES, recipe.save_every_minutes
    steps = _train_steps(recipe, recipe.pretrain, begun, catch_up(states, begun.training, recipe.seed))
    for _ in watched(steps, states, begun.training, dict, minutes=minutes, always=(begun.steps,)):
        pass
    if begun.in_shards:
        _finish(recipe, recipe.pretrain, begun)


def _begin(recipe: Recipe, settings: PretrainSettings, world: World, mark: str) -> Begun:
    import torch
    from transformers import AutoTokenizer

    from lotune.model.attention import use_packed_attention
    from lotune.model.base import count_parameters, resolve_device
    from lotune.train.resume import Training
    from lotune.train.schedule import learning_rate_share, warmup_length
    from lotune.train.shard import needs_shards, shard

    device, folder = resolve_device(recipe.device), recipe.folder / "data"
    tokenizer, rows = AutoTokenizer.from_pretrained(settings.start or folder / "tokenizer"), TokenFile(folder / "train")
    torch.manual_seed(recipe.seed)
    model = _first_model(settings, tokenizer)
    _check_lengths(rows, model.config.max_position_embeddings)
    in_shards = needs_shards(recipe.shard, TRAINED_BYTES * count_parameters(model), device, world)
    if in_shards:
        _refuse_muon(settings)
        shard(model, world, device)
    else:
        model = model.to(device)
    use_packed_attention(model)
    steps = settings.steps or max(1, round(settings.epochs * int(rows.lengths().sum()) / settings.batch_tokens))
    warmup = warmup_length(steps, None, settings.warmup_share)
    shares = [learning_rate_share(step, steps, warmup, "cosine", settings.final_share) for step in range(1, steps + 1)]
    training = Training(model, _optimizers(model, settings), mark, world)
    return Begun(tokenizer, rows, training, steps, shares, in_shards)


def _refuse_muon(settings: PretrainSettings) -> None:
    if settings.optimizer == "muon":
        found, remedy = "muon turns whole matrices, and these are in shards", "pretrain.optimizer=adamw, or shard=no"
        raise SettingsError("pretrain.optimizer", found, "adamw", remedy)


def _train_steps(recipe: Recipe, settings: PretrainSettings, begun: Begun, done: int) -> Iterator[Step]:
    """The steps after the `done` ones."""
    from lotune.train.loop import train

    world = begun.training.world
    batches = pretraining_batches(
        begun.rows, batch_tokens=settings.batch_tokens, steps=begun.steps, seed=recipe.seed, first_step=done + 1,
        share=world.share,
    )  # fmt: skip
    return train(
        begun.training.model,
        batches,
        begun.training.optimizers,
        begun.shares,
        clip_norm=settings.clip_norm,
        compile=settings.compile,
        first_step=done + 1,
        world=world,
    )


def _train(run: Run, settings: PretrainSettings, recipe: Recipe, world: World) -> dict[str, Any]:
    from lotune.model.base import count_parameters

    _documents(run, settings, recipe)
    world.tell("pretrain")
    mark = inputs_mark({**stage_inputs(recipe, "pretrain"), "rows": run.folder / "data" / "train.tokens.npy"})
    begun = _begin(recipe, settings, world, mark)
    parameters, tokens = count_parameters(begun.training.model), int(begun.rows.lengths().sum())
    say(f"{parameters:,} parameters, {tokens:,} tokens, {begun.steps} steps")
    done = go_on(run, begun.training).step
    steps, span, minutes = _train_steps(recipe, settings, begun, done), (done, begun.steps), recipe.save_every_minutes
    with naming_rows(partial(_documents_of_step, begun.rows, settings.batch_tokens, recipe.seed)):
        for _ in course(run, "pre-training", steps, span, begun.training, dict, minutes=minutes, always=(begun.steps,)):
            pass
    loss = _finish(recipe, settings, begun)
    return {"parameters": parameters, "tokens": tokens, "steps": begun.steps, "validation_loss": loss}


def _finish(recipe: Recipe, settings: PretrainSettings, begun: Begun) -> float:
    """Save the model, and give its loss on the documents held back; all processes do it where weights are in shards."""
    import torch

    from lotune.model.checkpoints import save_full
    from lotune.train.loop import mean_loss
    from lotune.train.shard import put_together

    trained = begun.training
    loss = mean_loss(trained.model, _validation(TokenFile(recipe.folder / "data" / "validation")))
    whole: Any = trained.model
    if begun.in_shards:
        whole = put_together(trained.model, _first_model(settings, begun.tokenizer))
    if trained.world.leads:
        save_full(whole, begun.tokenizer, recipe.folder / "model", torch.bfloat16)
    return loss


def _optimizers(model: Any, settings: PretrainSettings) -> Any:
    from lotune.train.loop import adamw, muon

    if settings.optimizer == "muon":
        return muon(model, settings.learning_rate, settings.weight_decay)
    parameters = list(model.parameters())
    return adamw(parameters, settings.learning_rate, (0.9, 0.95), 1e-8, settings.weight_decay)


def _documents_of_step(rows: TokenFile, batch_tokens: int, seed: int, step: int) -> list[str]:
    """The names of the documents of a step (from 1), by their number in the generated text."""
    places = documents_of_step(rows, batch_tokens=batch_tokens, seed=seed, step=step)
    return [f"document {number}" for number in rows.ids(places)]


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
