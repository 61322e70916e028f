"""Bits per byte of a character n-gram with interpolated Kneser–Ney smoothing, beside those of a pre-training.

`python -m benchmarks.kneser_ney RUN [--order 3]` reads the training and the validation articles of a finished
pre-training on a corpus, trains the n-gram on the former and measures both models on the latter.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lotune.files import read_json
from lotune.recipe import read_recipe
from lotune.stages.corpus import read_corpus

START = "\x02"
"""Stands before the first character of a text, as often as a context is long."""
CODE_POINTS = 2**16
"""Characters over which the lowest order is smoothed: those of Unicode's first plane."""


class KneserNey:
    """An interpolated Kneser–Ney model of characters, with a discount for each order (Chen and Goodman 1999)."""

    def __init__(self, texts: Iterable[str], order: int) -> None:
        self._order = order
        counts: dict[int, Counter[str]] = {order: Counter()}
        for text in texts:
            padded = START * (order - 1) + text
            counts[order].update(padded[place : place + order] for place in range(len(text)))
        for size in range(order - 1, 0, -1):  # of lower orders, the number of different characters before each
            counts[size] = Counter(gram[1:] for gram in counts[size + 1])
        self._counts = counts
        self._totals = {size: _totals(grams) for size, grams in counts.items()}
        self._discounts = {size: _discount(grams) for size, grams in counts.items()}

    def probability(self, gram: str) -> float:
        """Return the probability of the last character of an n-gram after the others.

        >>> model = KneserNey(["abab", "abba"], 2)
        >>> characters = (chr(code) for code in range(CODE_POINTS))
        >>> round(sum(model.probability(f"a{character}") for character in characters), 6)
        1.0
        """
        if not gram:
            return 1 / CODE_POINTS
        size = len(gram)
        total, different = self._totals[size].get(gram[:-1], (0, 0))
        lower = self.probability(gram[1:])
        if not total:
            return lower
        discount = self._discounts[size]
        own = max(self._counts[size][gram] - discount, 0.0) if gram in self._counts[size] else 0.0
        return own / total + discount * different / total * lower

    def bits(self, text: str) -> float:
        """Return the bits that a text takes."""
        padded = START * (self._order - 1) + text
        grams = (padded[place : place + self._order] for place in range(len(text)))
        return -sum(math.log2(self.probability(gram)) for gram in grams)


def _totals(grams: Counter[str]) -> dict[str, tuple[int, int]]:
    """Return the sum of the counts, and the number of different characters, after each context."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for gram, count in grams.items():
        found = totals[gram[:-1]]
        found[0] += count
        found[1] += 1
    return {context: (total, different) for context, (total, different) in totals.items()}


def _discount(grams: Counter[str]) -> float:
    """Return n1 / (n1 + 2 n2), with the numbers of n-grams that occur once and twice."""
    often = Counter(grams.values())
    return often[1] / (often[1] + 2 * often[2]) if often[1] else 0.5


def bits_per_byte(model: KneserNey, texts: Sequence[str]) -> float:
    """Return the bits that texts take for each byte of UTF-8."""
    return sum(map(model.bits, texts)) / sum(len(text.encode()) for text in texts)


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Print both figures and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kneser_ney", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--order", type=int, default=3)
    options = parser.parse_args(words)
    corpus = read_corpus(read_recipe(options.run / "recipe.yaml"))
    train, validation = ([article.target for article in part] for part in (corpus.train, corpus.validation))
    ngram = bits_per_byte(KneserNey(train, options.order), validation)
    model = float(read_json(options.run / "pretraining.json")["bits_per_byte"])
    print("\n".join(_lines(options.order, ngram, model)))
    return {"ngram": ngram, "model": model}


def _lines(order: int, ngram: float, model: float) -> Iterator[str]:
    yield f"character {order}-gram, Kneser–Ney: {ngram:.3f} bits per byte"
    yield f"pre-trained model:              {model:.3f} bits per byte"
    yield f"model / {order}-gram: {model / ngram:.3f}"


if __name__ == "__main__":
    main()
