"""Divide a corpus into training and validation articles, without duplicates."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lotune.data.corpus import Corpus, CorpusCounts
from lotune.data.disk_list import select
from lotune.data.duplicates import Deduplicate, ExactDuplicates, NearDuplicates, text_digest
from lotune.data.examples import Example, examples_on_disk
from lotune.data.file_readers import truncate_text
from lotune.errors import DataError

EXAMPLES = 3
"""Number of duplicates that are kept as examples."""
LENGTH_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
"""Quantiles of the articles' lengths that are counted."""


@dataclass(frozen=True)
class SplitSettings:
    """How a corpus is deduplicated and divided.

    `fraction` is the probability of an article to be for validation, and `threshold` the Jaccard similarity of near
    duplicates.
    """

    fraction: float
    seed: int
    deduplicate: Deduplicate = "none"
    threshold: float = 0.8


@dataclass(frozen=True)
class SplitCorpus:
    """The articles to train on and those to validate on, in the order of the files, and what was counted."""

    train: Sequence[Example]
    validation: Sequence[Example]
    counts: CorpusCounts


def split_corpus(corpus: Corpus, settings: SplitSettings) -> SplitCorpus:
    """Read, clean and deduplicate the articles of a corpus, and divide them into training and validation articles.

    The digest of an article's text and the seed decide about it, so it stays on its side if others are added, and a
    copy of it is on the same side. Each side has at least one article. A single article is cut: its end is for
    validation.

    Raises: DataError if no article has text.
    """
    counts, places = CorpusCounts(), array("d")
    articles = examples_on_disk(_unlike(corpus, settings, counts, places))
    if not articles:
        raise DataError(str(corpus.path), "its articles are empty", "text", "check the files and the cleaning")
    parts = _cut(articles[0], settings.fraction) if len(articles) == 1 else _parts(articles, places, settings.fraction)
    counts.train_articles, counts.validation_articles = map(len, parts)
    return SplitCorpus(*parts, counts)


def _parts(
    articles: Sequence[Example], places: array[float], fraction: float
) -> tuple[Sequence[Example], Sequence[Example]]:
    size = min(max(1, sum(place < fraction for place in places)), len(places) - 1)
    held_out = set(sorted(range(len(places)), key=places.__getitem__)[:size])
    train = select(articles, (index for index in range(len(places)) if index not in held_out))
    return train, select(articles, sorted(held_out))


def _cut(article: Example, fraction: float) -> tuple[Sequence[Example], Sequence[Example]]:
    text, cut = article.target, max(1, int(len(article.target) * (1 - fraction)))
    return [replace(article, target=text[:cut])], [replace(article, target=text[cut:])]


def _unlike(corpus: Corpus, settings: SplitSettings, counts: CorpusCounts, places: array[float]) -> Iterator[Example]:
    """Yield the articles that are like no earlier one; append the place of each within [0, 1) to `places`."""
    finders: list[ExactDuplicates | NearDuplicates] = []
    if settings.deduplicate != "none":
        finders.append(ExactDuplicates())
    if settings.deduplicate == "near":
        finders.append(NearDuplicates(settings.threshold))
    ids, lengths = list[str](), array("q")
    for number, article in enumerate(corpus.articles(counts)):
        ids.append(article.id)
        like = (finder.first_like(number, article.target) for finder in finders)
        first = next((found for found in like if found is not None), None)
        if first is not None:
            counts.duplicates.removed += 1
            if len(counts.duplicates.examples) < EXAMPLES:
                counts.duplicates.examples.append((article.id, ids[first], truncate_text(article.target, 60)))
            continue
        counts.add(article.target)
        lengths.append(len(article.target))
        places.append(int.from_bytes(text_digest(article.target, f"split:{settings.seed}")[:6]) / 2**48)
        yield article
    ranked = sorted(lengths)
    counts.lengths = [ranked[round(part * (len(ranked) - 1))] for part in LENGTH_QUANTILES] if ranked else []
