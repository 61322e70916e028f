"""Tokeniser and token files of a pre-training, made once from articles or from generated text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import tee
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.blocks import BlockRule, SentenceEnds, chunk_articles
from lotune.data.corpus_split import SplitCorpus
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile, write_token_file
from lotune.data.tokenization import encode_rows
from lotune.data.tokenized import EncodedRow
from lotune.data.tokenizer_figures import tokenizer_figures
from lotune.errors import DataError
from lotune.files import write_json
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.corpus import corpus_lines, read_corpus
from lotune.stages.dependencies import stage_inputs
from lotune.stages.pretraining_model import context_of
from lotune.train.settings import PretrainSettings

TOKENIZER_DOCUMENTS = 20_000
"""Maximum number of documents that the tokeniser is trained on."""
CORPUS_SETTINGS = (
    "seed", "pretrain.generated_documents", "pretrain.validation_fraction", "pretrain.llama_config.vocab_size",
    "pretrain.init_from", "pretrain.corpus", "pretrain.cleaning",
    "pretrain.cleaning_rules", "pretrain.text_key", "pretrain.deduplicate", "pretrain.near_duplicate_similarity",
    "pretrain.chunking", "pretrain.block_size", "pretrain.sentence_ends",
    "pretrain.tokenizer", "pretrain.config_file", "pretrain.llama_config.max_position_embeddings",
)  # fmt: skip
"""Settings that tokeniser and documents depend on."""
ARCHITECTURE = "pretrain.architecture."
"""Beginning of the keys of an architecture, which has the context, and thus the size of the blocks."""
CORPUS_FILE = "corpus.json"
"""File in the run's data with the counts of its corpus and the figures of its tokeniser."""
MEASURED_ARTICLES = 500
"""Training articles on which the tokeniser is measured."""
CORPUS_CODE = ("data", "nano/corpus_generator.py", "tasks")
"""Paths in the package whose code generates the text and tokenises it."""


def document_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return the inputs of tokeniser and documents: settings, and the code that generates and encodes them."""
    inputs = stage_inputs(recipe, "pretrain").items()
    settings = {key: value for key, value in inputs if key in CORPUS_SETTINGS or key.startswith(ARCHITECTURE)}
    # A changed generator writes other text from the same settings, so its code is an input like a file of rows.
    code = {f"lotune/{name}": Path(__file__).parents[1] / name for name in CORPUS_CODE}
    return {**settings, **code, "tokenizer_documents": TOKENIZER_DOCUMENTS}


def ensure_documents(run: Run, settings: PretrainSettings, recipe: Recipe) -> tuple[Any, TokenFile, TokenFile]:
    """Return the tokeniser and the rows to train and to validate on; make them unless the run has them already."""
    from transformers import AutoTokenizer

    folder, inputs = run.folder / "data", document_inputs(recipe)
    path = tokenizer_folder(settings, folder)
    if run.stage_state("documents", inputs) == "done":
        print_status(f"reusing the tokeniser and documents in {folder}")
    else:
        for change in run.changes("documents", inputs):
            print_status(f"changed: {change} (the documents are made again)")
        # Before anything is written: half-written token files must not pass as finished after a crash.
        run.invalidate_stage("documents")
        articles = None if settings.corpus is None else read_corpus(recipe)
        if path == folder / "tokenizer":
            _make_tokenizer(settings, recipe, path, articles)
        tokenizer = AutoTokenizer.from_pretrained(path)
        if articles is None:
            _write_documents(tokenizer, settings, recipe, folder)
        else:
            for line in corpus_lines(articles.counts):
                print_status(line)
            figures = tokenizer_figures(tokenizer, (article.target for article in articles.train[:MEASURED_ARTICLES]))
            print_status(f"tokeniser: {figures.describe()}")
            write_json(folder / CORPUS_FILE, asdict(articles.counts) | {"tokenizer": asdict(figures)})
            _write_articles(tokenizer, settings, articles, folder)
        run.mark_stage_done("documents", inputs, [folder])
    tokenizer = AutoTokenizer.from_pretrained(path)
    return tokenizer, TokenFile(folder / "train"), TokenFile(folder / "validation")


def tokenizer_folder(settings: PretrainSettings, folder: Path) -> Path:
    """Return the folder of the tokeniser; `folder` is that of the run's data."""
    from lotune.model.convert.tokenizer_files import find_foreign_tokenizer

    given = settings.init_from or settings.tokenizer
    # A name of the hub is stored in the run, and so is a layout that transformers does not read, as GPT-2's own files.
    is_ready = given is not None and given.exists() and find_foreign_tokenizer(given) is None
    return given if given is not None and is_ready else folder / "tokenizer"


def _make_tokenizer(settings: PretrainSettings, recipe: Recipe, folder: Path, articles: SplitCorpus | None) -> None:
    from lotune.data.tokenizer_training import train_tokenizer
    from lotune.model.convert.tokenizer_files import read_tokenizer
    from lotune.model.loading import load_tokenizer
    from lotune.model.settings import BaseSettings
    from lotune.nano.corpus_generator import tokenizer_texts

    if (given := settings.tokenizer) is not None:
        is_local = given.exists()
        tokenizer = read_tokenizer(given)[0] if is_local else load_tokenizer(BaseSettings(model=str(given)))[0]
        tokenizer.save_pretrained(folder)
        print_status(f"the tokeniser {given} is stored in {folder}")
        return
    print_status("training the tokeniser")
    if articles is None:
        texts = tokenizer_texts(min(TOKENIZER_DOCUMENTS, settings.generated_documents), recipe.seed)
    else:
        # The training part alone: text of the validation articles must not shape the vocabulary.
        texts = (article.target for article in articles.train)
    train_tokenizer(texts, settings.llama_config.vocab_size, folder)


def _write_documents(tokenizer: Any, settings: PretrainSettings, recipe: Recipe, folder: Path) -> None:
    from lotune.nano.corpus_generator import documents

    print_status(f"writing {settings.generated_documents} documents as tokens")
    counts = {"train": settings.generated_documents, "validation": num_validation_documents(settings)}
    # Each part has a seed of its own, or validation would repeat the first training documents.
    for number, (name, count) in enumerate(counts.items()):
        rows = _encode_documents(tokenizer, documents(count, recipe.seed + number))
        write_token_file(folder / name, rows, len(tokenizer))


def _write_articles(tokenizer: Any, settings: PretrainSettings, articles: SplitCorpus, folder: Path) -> None:
    """Write the articles as blocks of tokens. Raises: DataError if the training or the validation part has no block."""
    size = min(settings.block_size or context_of(settings), context_of(settings))
    # A stream cuts blocks anywhere; the other ways cut after whole sentences.
    ends = None if settings.chunking == "stream" else SentenceEnds(tokenizer, settings.sentence_ends)
    rule = BlockRule(size, settings.chunking, ends)
    for name, part in (("train", articles.train), ("validation", articles.validation)):
        counts: Counter[str] = Counter()
        rows = chunk_articles(encode_rows(tokenizer, part), rule, counts)
        write_token_file(folder / name, rows, len(tokenizer), counts)
        print_status(
            f"{name}: {counts['articles']:,} articles in {counts['blocks']:,} blocks, {counts['tokens']:,} tokens "
            f"({counts['dropped']:,} articles dropped, {counts['cut']:,} cut by {counts['cut_tokens']:,} tokens; full "
            f"blocks would have {counts['padding']:,} of padding)"
        )
        if not counts["blocks"]:
            found = f"no {name} article has a sentence that fits into {size} tokens"
            raise DataError(
                str(settings.corpus), found, remedy="pretrain.chunking=stream, or a larger pretrain.block_size"
            )


def num_validation_documents(settings: PretrainSettings) -> int:
    """Return how many generated documents to validate on."""
    return max(1, int(settings.generated_documents * settings.validation_fraction))


def _encode_documents(tokenizer: Any, texts: Iterable[Example]) -> Iterator[EncodedRow]:
    """Yield the documents as tokens, each with a final end-of-text token unless its category is in WITHOUT_EOS."""
    from lotune.nano.corpus_generator import WITHOUT_EOS

    # Encoding consumes the texts, but the category beside each row is still needed.
    texts, encoded = tee(texts)
    for text, row in zip(texts, encode_rows(tokenizer, encoded), strict=True):
        yield replace(row, token_ids=row.token_ids[:-1]) if text.category in WITHOUT_EOS else row
