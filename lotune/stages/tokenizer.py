"""`lotune tokenizer`: train a tokeniser on a corpus, and compare tokenisers by what they make of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.cleaning import Cleaning
from lotune.data.corpus import Corpus
from lotune.data.disk_list import DiskList
from lotune.data.tokenizer_figures import TokenizerFigures, tokenizer_figures
from lotune.errors import DataError, SettingsError
from lotune.model.loading import load_tokenizer
from lotune.model.settings import BaseSettings
from lotune.recipe import RunOptions
from lotune.text_display import print_visible

MOST_ARTICLES = 2000
"""Articles on which tokenisers are compared at most."""
OUT_OPTION = "--out"


def train(
    corpus: Path, vocab_size: int, out: Path, cleaning: Cleaning, force: bool, options: RunOptions
) -> dict[str, Any]:
    """Train a tokeniser on the articles of a file or folder, save it in a folder, and print its figures.

    Raises: DataError if there is no article; SettingsError if the folder exists without `force`, or if the vocabulary
    is too small.
    """
    from lotune.data.tokenizer_training import train_tokenizer

    if out.exists() and not force:
        raise SettingsError(OUT_OPTION, f"{out} already exists", remedy="name a new folder, or add --force")
    texts = _texts(corpus, cleaning)
    tokenizer = train_tokenizer(texts, vocab_size, out)
    print_status(f"trained on {len(texts):,} articles: {out}")
    return _shown({str(out): tokenizer_figures(tokenizer, islice(texts, MOST_ARTICLES))}, len(texts), 0, options)


def compare(
    corpus: Path, tokenizers: Sequence[str], cleaning: Cleaning, step_tokens: int, options: RunOptions
) -> dict[str, Any]:
    """Print what each tokeniser makes of the articles of a file or folder, and in how many steps it reads them.

    A tokeniser is a file or folder of any layout that `lotune convert` reads, nano, or a name of the hub.

    Raises: DataError if there is no article; ModelError for a name that is no tokeniser.
    """
    texts = _texts(corpus, cleaning)
    figures = {name: tokenizer_figures(_named(name), islice(texts, MOST_ARTICLES)) for name in tokenizers}
    return _shown(figures, len(texts), step_tokens, options)


def _texts(corpus: Path, cleaning: Cleaning) -> DiskList[str]:
    texts = DiskList((article.target for article in Corpus(corpus, cleaning).articles()), str.encode, bytes.decode)
    if not texts:
        raise DataError(str(corpus), "its articles are empty", remedy="check the files and the cleaning")
    return texts


def _named(name: str) -> Any:
    from lotune.model.convert.tokenizer_files import read_tokenizer

    return read_tokenizer(Path(name))[0] if Path(name).exists() else load_tokenizer(BaseSettings(model=name))[0]


def _shown(
    figures: Mapping[str, TokenizerFigures], articles: int, step_tokens: int, options: RunOptions
) -> dict[str, Any]:
    if not options.json:
        print_visible("\n".join(_lines(figures, articles, step_tokens)))
    return {"articles": articles, "tokenizers": {name: asdict(found) for name, found in figures.items()}}


def _lines(figures: Mapping[str, TokenizerFigures], articles: int, step_tokens: int) -> Iterable[str]:
    measured = min(articles, MOST_ARTICLES)
    for name, found in figures.items():
        tokens = found.tokens * articles / measured
        steps = f"; {math.ceil(tokens / step_tokens):,} steps of {step_tokens:,} tokens an epoch" if step_tokens else ""
        about = "about " if articles > measured else ""
        yield f"{name}: {found.describe()}; {about}{tokens:,.0f} tokens in all{steps}"
