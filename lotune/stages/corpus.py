"""`lotune corpus`: what a pre-training would take of a folder of articles, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lotune.data.cleaning import CleaningRule
from lotune.data.corpus import Corpus, CorpusCounts
from lotune.data.corpus_split import SplitCorpus, SplitSettings, split_corpus
from lotune.data.rows import log_all_malformed
from lotune.recipe import Recipe, RunOptions, check_pretraining_paths
from lotune.text_display import print_visible
from lotune.train.settings import PretrainSettings

MALFORMED_FILE = "malformed_articles.txt"
"""File for the articles that cannot be read, where a message cannot list all."""


def corpus(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Print what the pre-training of a recipe takes of its corpus, and return the counts.

    Raises: DataError if the corpus does not exist, has no article, or has articles that cannot be read.
    """
    check_pretraining_paths(recipe)
    counts = read_corpus(recipe).counts
    if not options.json:
        print_visible("\n".join([*corpus_lines(counts), *_example_lines(counts)]))
    return asdict(counts)


def read_corpus(recipe: Recipe) -> SplitCorpus:
    """Return the articles that a recipe takes to train and to validate on. Raises: DataError."""
    settings = recipe.pretrain
    assert settings is not None
    with log_all_malformed(recipe.folder / MALFORMED_FILE):
        return split_corpus(_corpus(settings, recipe), _split_settings(settings, recipe.seed))


def _corpus(settings: PretrainSettings, recipe: Recipe) -> Corpus:
    assert settings.corpus is not None
    return Corpus(
        settings.corpus,
        settings.cleaning,
        recipe.data.max_row_bytes,
        tuple(CleaningRule(**rule.model_dump()) for rule in settings.cleaning_rules),
        settings.text_key,
        recipe.data.on_error,
    )


def _split_settings(settings: PretrainSettings, seed: int) -> SplitSettings:
    return SplitSettings(settings.validation_fraction, seed, settings.deduplicate, settings.near_duplicate_similarity)


def corpus_lines(counts: CorpusCounts) -> Iterator[str]:
    """Yield what was counted as lines.

    >>> counts = CorpusCounts(read=3, train_articles=1, validation_articles=1, lengths=[9, 9, 12, 15, 15])
    >>> counts.add("光速 is 3。")
    >>> list(corpus_lines(counts))[0]
    'articles: 3 read (), 0 malformed, 0 empty, 0 duplicates removed, 1 to train on, 1 for validation'
    """
    files = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.files.items()))
    yield (
        f"articles: {counts.read:,} read ({files}), {counts.malformed:,} malformed, {counts.empty:,} empty, "
        f"{counts.duplicates.removed:,} duplicates removed, {counts.train_articles:,} to train on, "
        f"{counts.validation_articles:,} for validation"
    )
    scripts = ", ".join(
        f"{name} {count / max(1, counts.characters):.0%}"
        for name, count in sorted(counts.scripts.items(), key=lambda item: -item[1])
        if count
    )
    least, low, median, high, most = counts.lengths
    yield (
        f"text: {counts.characters:,} characters, {counts.bytes:,} bytes ({scripts}); an article has {median:,} "
        f"characters in the middle, 90 % have {low:,} to {high:,}, all {least:,} to {most:,}"
    )
    hits = [f"{rule.name} {rule.hits:,} times in {rule.articles:,} articles" for rule in counts.cleaning if rule.hits]
    if counts.cleaning:
        yield f"cleaning: {', '.join(hits) or 'nothing to clean'}"


def _example_lines(counts: CorpusCounts) -> Iterator[str]:
    for rule in counts.cleaning:
        yield from (f"  {rule.name}: {example}" for example in rule.examples)
    yield from (f"  duplicate: {id} is like {first}: {text}" for id, first, text in counts.duplicates.examples)
    yield from (f"  left out: {row}" for row in counts.malformed_rows)
