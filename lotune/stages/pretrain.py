"""`lotune pretrain`: a base model from scratch, on one's own articles or on text that is generated from a seed."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.data.batches import EncodedRow, Layout, chunks, documents_of_step, pretraining_batches, traversal_steps
from lotune.data.corpus import Corpus, blocks, sentence_ends
from lotune.data.encoding import encode_rows
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile, write_token_file
from lotune.data.tokenizers import MOST_ROWS, padding_id
from lotune.disk import require_space, shown
from lotune.errors import DataError, SettingsError
from lotune.recipe import Options, Recipe, check_pretraining_paths, stage_inputs
from lotune.report.progress import say
from lotune.runs import Run, inputs_mark, open_run, write_json
from lotune.stages.number_formats import Record, explain, keep, settle, with_formats
from lotune.stages.states import STATES, course, go_on, naming_rows, takes_packed
from lotune.train.parallel import World
from lotune.train.settings import PretrainSettings

if TYPE_CHECKING:
    from lotune.train.loop import Step
    from lotune.train.resume import Training

TOKENIZER_DOCUMENTS = 20_000
"""Documents that the tokeniser is trained on, at most."""
REMEDY = "lower pretrain.pass_tokens, or set pretrain.gradient_checkpointing=true"
"""What to do where a pass finds no memory."""
TRAINED_BYTES = 16
"""Of a trained weight in float32: itself, its gradient and AdamW's two means."""
DOCUMENT_TOKENS, DOCUMENT_BYTES = 260, 64
"""Most of what a document takes in the mean: some 250 tokens with the smallest vocabulary, offsets, answers and id."""
DOCUMENT_KEYS = (
    *("seed", "pretrain.documents", "pretrain.validation_share", "pretrain.config.vocab_size", "pretrain.start"),
    *("pretrain.text", "pretrain.cleaning", "pretrain.blocks", "pretrain.block_size", "pretrain.tokenizer"),
    *("pretrain.architecture", "pretrain.config.max_position_embeddings"),
)
"""The settings that tokeniser and documents depend on."""
DOCUMENT_CODE = ("data", "nano/text.py", "tasks")
"""The code below the package that writes the text and makes tokens of it."""


def pretrain(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train a tokeniser and a model on articles or generated text, save the model and copy it to `pretrain.publish`.

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
            say(f"{run.folder}: pre-training is done; nothing has changed")
        else:
            needed, memory = _disk_bytes(run, settings, recipe), _memory_bytes(settings)
            say(f"estimate: {shown(memory)} of memory, {shown(needed)} on disk")
            require_space(run.folder, needed, "pre-training", [run.folder / STATES])
            if options.dry_run:
                documents = settings.documents if settings.text is None else None
                sizes = {"memory_bytes": memory, "disk_bytes": needed}
                return {"documents": documents, "steps": settings.steps, **sizes}
            run.forget_stage("pretrain")
            explain(run, asked, formats, "pre-training")
            keep(run, formats)
            figures = _train(run, recipe, options.world, formats)
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

    from lotune.model.base import count_parameters
    from lotune.train.estimate import disk_bytes

    model = _empty(settings)
    models = torch.bfloat16.itemsize * count_parameters(model) * (1 if settings.publish is None else 2)
    there = run.stage_state("documents", document_inputs(recipe)) == "done"
    token_bytes = 2 if model.config.vocab_size <= 2**16 else 4
    if settings.text is not None:
        written = sum(file.stat().st_size for file in Corpus(settings.text).files()) * token_bytes
    else:
        written = (settings.documents + _held_back(settings)) * (DOCUMENT_TOKENS * token_bytes + DOCUMENT_BYTES)
    return (0 if there else written) + disk_bytes(model, 0, 0) + models


def _memory_bytes(settings: PretrainSettings) -> int:
    from lotune.train.estimate import memory_bytes

    tokens = min(settings.batch_tokens, settings.pass_tokens or settings.batch_tokens)
    model, recomputed = _empty(settings).requires_grad_(True), settings.gradient_checkpointing
    return memory_bytes(model, tokens, tokens, divided=True, recomputed=recomputed)


def _format(settings: PretrainSettings, device: str) -> Record:
    """The format that this machine makes the products of a pre-training in."""
    from lotune.model.base import resolve_device
    from lotune.model.number_format import products_of, training_format

    tokens = min(settings.batch_tokens, settings.pass_tokens or settings.batch_tokens)
    found = training_format(resolve_device(device), products_of(_empty(settings), tokens), trains_all=True)
    return found._asdict()


def _empty(settings: PretrainSettings) -> Any:
    """The model without its weights, on the meta device."""
    import torch

    from lotune.model.base import build_architecture, build_from_config, empty_model
    from lotune.model.settings import BaseSettings

    if settings.start is not None:
        return empty_model(BaseSettings(model=str(settings.start)))
    with torch.device("meta"):
        if settings.architecture is not None:
            return build_architecture(settings.architecture, {})
        return build_from_config(settings.config.model_dump())


def document_inputs(recipe: Recipe) -> dict[str, Any]:
    """What tokeniser and documents are made from: settings, and the code that generates and encodes them."""
    settings = {key: value for key, value in stage_inputs(recipe, "pretrain").items() if key in DOCUMENT_KEYS}
    code = {f"lotune/{name}": Path(__file__).parents[1] / name for name in DOCUMENT_CODE}
    return {**settings, **code, "tokenizer_documents": TOKENIZER_DOCUMENTS}


def _documents(run: Run, settings: PretrainSettings, recipe: Recipe) -> tuple[Any, TokenFile, TokenFile]:
    """The tokeniser, and the documents to train and to validate on; those of the run where they are whole and fit."""
    from transformers import AutoTokenizer

    folder, inputs = run.folder / "data", document_inputs(recipe)
    tokenizer_folder = _tokenizer_folder(settings, folder)
    if run.stage_state("documents", inputs) == "done":
        say(f"tokeniser and documents are those in {folder}")
    else:
        for change in run.changes("documents", inputs):
            say(f"changed: {change} (the documents are made again)")
        run.forget_stage("documents")
        if tokenizer_folder == folder / "tokenizer":
            _train_tokenizer(settings, recipe, tokenizer_folder)
        write = _write_documents if settings.text is None else _write_articles
        write(AutoTokenizer.from_pretrained(tokenizer_folder), settings, recipe, folder)
        run.finish_stage("documents", inputs, [folder])
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    return tokenizer, TokenFile(folder / "train"), TokenFile(folder / "validation")


def _tokenizer_folder(settings: PretrainSettings, folder: Path) -> Path:
    return settings.start or settings.tokenizer or folder / "tokenizer"


def _train_tokenizer(settings: PretrainSettings, recipe: Recipe, folder: Path) -> None:
    from lotune.data.tokenizers import train_tokenizer
    from lotune.nano.text import tokenizer_texts

    say("training the tokeniser")
    if settings.text is None:
        texts = tokenizer_texts(min(TOKENIZER_DOCUMENTS, settings.documents), recipe.seed)
    else:
        texts = (article.target for article in _articles(settings.text, settings, recipe)[0])
    train_tokenizer(texts, settings.config.vocab_size, folder)


def _write_documents(tokenizer: Any, settings: PretrainSettings, recipe: Recipe, folder: Path) -> None:
    from lotune.nano.text import documents

    say(f"writing {settings.documents} documents as tokens")
    counts = {"train": settings.documents, "validation": _held_back(settings)}
    for number, (name, count) in enumerate(counts.items()):
        rows = _encoded(tokenizer, documents(count, recipe.seed + number))
        write_token_file(folder / name, rows, len(tokenizer))


def _articles(path: Path, settings: PretrainSettings, recipe: Recipe) -> tuple[Iterator[Example], Iterator[Example]]:
    """Return the articles to train on and those to validate on."""
    corpus = Corpus(path, settings.cleaning, recipe.data.max_row_bytes)
    return corpus.parts(settings.validation_share, recipe.seed)


def _write_articles(tokenizer: Any, settings: PretrainSettings, recipe: Recipe, folder: Path) -> None:
    """Articles as blocks of tokens. Raises: DataError where no block comes out."""
    assert settings.text is not None
    size = min(settings.block_size or _context(settings), _context(settings))
    ends = frozenset() if settings.blocks == "stream" else sentence_ends(tokenizer)
    parts = _articles(settings.text, settings, recipe)
    for name, articles in zip(("train", "validation"), parts, strict=True):
        counts: Counter[str] = Counter()
        rows = blocks(encode_rows(tokenizer, articles), size, settings.blocks, ends, counts)
        write_token_file(folder / name, rows, len(tokenizer), counts)
        say(f"{name}: {counts['articles']:,} articles, {counts['dropped']:,} dropped, {counts['blocks']:,} blocks")
        if not counts["blocks"]:
            found = f"no block of {name} articles: none has a sentence that fits into {size} tokens"
            raise DataError(str(settings.text), found, remedy="pretrain.blocks=stream, or a larger pretrain.block_size")


def _context(settings: PretrainSettings) -> int:
    from lotune.model.base import context_length

    return context_length(_empty(settings))


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
    pad_token_id: int | None
    """What fills up lines; None where rows are packed."""
    half: bool
    """Whether products are made in bfloat16."""


def take_part(recipe: Recipe, options: Options) -> None:
    """The part of a process that does not lead in a pre-training: its share of each step; it writes nothing."""
    from lotune.train.resume import catch_up, watched

    recipe = with_formats(recipe, options.world.hear())
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

    from lotune.model.base import context_length, count_parameters, resolve_device, resolve_dtype
    from lotune.train.loop import recompute_activations
    from lotune.train.resume import Training
    from lotune.train.schedule import learning_rate_share, warmup_length
    from lotune.train.shard import needs_shards, shard

    device, folder = resolve_device(recipe.device), recipe.folder / "data"
    tokenizer = AutoTokenizer.from_pretrained(_tokenizer_folder(settings, folder))
    rows = TokenFile(folder / "train")
    torch.manual_seed(recipe.seed)
    model = _first_model(settings, tokenizer)
    _check_lengths(rows, context_length(model))
    if settings.gradient_checkpointing:
        recompute_activations(model, "pretrain.gradient_checkpointing")
    in_shards = needs_shards(recipe.shard, TRAINED_BYTES * count_parameters(model), device, world)
    if in_shards:
        _refuse_muon(settings)
        shard(model, world, device)
    else:
        model = model.to(device)
    padding = None if takes_packed(model, rows) else padding_id(tokenizer)
    steps = settings.steps or traversal_steps(
        rows, batch_tokens=settings.batch_tokens, seed=recipe.seed, draw=settings.draw, epochs=settings.epochs
    )
    warmup = warmup_length(steps, None, settings.warmup_share)
    shares = [learning_rate_share(step, steps, warmup, "cosine", settings.final_share) for step in range(1, steps + 1)]
    training = Training(model, _optimizers(model, settings), mark, world)
    half = resolve_dtype(settings.precision, device) == torch.bfloat16
    return Begun(tokenizer, rows, training, steps, shares, in_shards, padding, half)


def _refuse_muon(settings: PretrainSettings) -> None:
    if settings.optimizer == "muon":
        found, remedy = "muon turns whole matrices, and these are in shards", "pretrain.optimizer=adamw, or shard=no"
        raise SettingsError("pretrain.optimizer", found, "adamw", remedy)


def _train_steps(recipe: Recipe, settings: PretrainSettings, begun: Begun, done: int) -> Iterator[Step]:
    """The steps after the `done` ones."""
    from lotune.train.loop import train

    world = begun.training.world
    batches = pretraining_batches(
        begun.rows, batch_tokens=settings.batch_tokens, steps=begun.steps, seed=recipe.seed, draw=settings.draw,
        first_step=done + 1, share=world.share, pad_token_id=begun.pad_token_id, pass_tokens=settings.pass_tokens,
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
        remedy=REMEDY,
        half=begun.half,
    )


def _train(run: Run, recipe: Recipe, world: World, formats: Record) -> dict[str, Any]:
    from lotune.model.base import count_parameters

    settings = recipe.pretrain
    assert settings is not None
    _documents(run, settings, recipe)
    world.tell("pretrain")
    world.tell(formats)
    mark = inputs_mark({**stage_inputs(recipe, "pretrain"), "rows": run.folder / "data" / "train.tokens.json"})
    begun = _begin(recipe, settings, world, mark)
    parameters, tokens = count_parameters(begun.training.model), int(begun.rows.lengths().sum())
    say(f"{parameters:,} parameters, {tokens:,} tokens, {begun.steps} steps")
    done = go_on(run, begun.training).step
    steps, span, minutes = _train_steps(recipe, settings, begun, done), (done, begun.steps), recipe.save_every_minutes
    with naming_rows(partial(_documents_of_step, begun.rows, settings, recipe.seed)):
        for _ in course(run, "pre-training", steps, span, begun.training, dict, minutes=minutes, always=(begun.steps,)):
            pass
    loss = _finish(recipe, settings, begun)
    return {
        "parameters": parameters, "tokens": tokens, "steps": begun.steps, "validation_loss": loss,
        **_on_held_back(begun.tokenizer, TokenFile(recipe.folder / "data" / "validation"), loss),
    }  # fmt: skip


def _on_held_back(tokenizer: Any, rows: TokenFile, loss: float) -> dict[str, float]:
    """Perplexity a token, and bits a byte of the scored text; the end of a text costs bits and has no bytes."""
    scored = [rows[place] for place in range(len(rows))]
    texts = tokenizer.batch_decode([row.tokens[max(1, row.answer_start) :] for row in scored], skip_special_tokens=True)
    bits = loss / math.log(2) * rows.supervised()
    return {"perplexity": math.exp(loss), "bits_per_byte": bits / max(1, sum(len(text.encode()) for text in texts))}


def _finish(recipe: Recipe, settings: PretrainSettings, begun: Begun) -> float:
    """Save the model, and give its loss on the documents held back; all processes do it where weights are in shards."""
    import torch

    from lotune.model.checkpoints import save_full
    from lotune.train.loop import mean_loss
    from lotune.train.shard import put_together

    trained = begun.training
    held_back = TokenFile(recipe.folder / "data" / "validation")
    loss = mean_loss(trained.model, _validation(held_back, begun.pad_token_id), REMEDY)
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


def _documents_of_step(rows: TokenFile, settings: PretrainSettings, seed: int, step: int) -> list[str]:
    """Where the documents of a step (from 1) came from: an article's place, or a number in the generated text."""
    places = documents_of_step(rows, batch_tokens=settings.batch_tokens, seed=seed, step=step, draw=settings.draw)
    return [f"document {name}" for name in rows.ids(places)]


def _check_lengths(rows: TokenFile, context: int) -> None:
    longest = int(rows.lengths().max())
    if longest > context:
        found, remedy = f"a document of {longest} tokens", "raise pretrain.config.max_position_embeddings"
        raise SettingsError("pretrain.config.max_position_embeddings", found, f"{context} at most", remedy)


def _first_model(settings: PretrainSettings, tokenizer: Any) -> Any:
    from lotune.data.tokenizers import check_tokenizer
    from lotune.model.base import build_architecture, build_from_config, load_base
    from lotune.model.settings import BaseSettings

    if settings.start is not None:
        return load_base(BaseSettings(model=str(settings.start), dtype="float32"), "cpu").model.requires_grad_(True)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if settings.architecture is not None:
        model = build_architecture(settings.architecture, ends)
        check_tokenizer(tokenizer, model.config.vocab_size, str(settings.architecture))
        return model
    rows, tokens = settings.config.vocab_size, len(tokenizer)
    if rows > MOST_ROWS * tokens:  # no base would be loaded with it
        found, remedy = f"is {rows}, the texts make {tokens} tokens", f"pretrain.config.vocab_size={tokens}"
        raise SettingsError("pretrain.config.vocab_size", found, f"{MOST_ROWS} times the tokens at most", remedy)
    return build_from_config(settings.config.model_dump() | ends)


def _validation(rows: TokenFile, pad_token_id: int | None) -> Iterator[Any]:
    """Every row once."""
    layout = Layout(len(rows), 8192, pad_token_id or 0, packed=pad_token_id is None)
    for places in chunks(range(len(rows)), 512):
        yield from layout.batches(rows[place] for place in places)
