"""A corpus is divided by the text of each article, and without duplicates."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.corpus import Corpus
from lotune.data.corpus_split import SplitCorpus, SplitSettings, split_corpus
from lotune.data.duplicates import SHINGLE, NearDuplicates, shingles
from lotune.errors import DataError


def divided(texts: list[str], fraction: float = 0.3, seed: int = 0, **settings: Any) -> SplitCorpus:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.jsonl"
        file.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
        return split_corpus(Corpus(file), SplitSettings(fraction, seed, **settings))


def sides(split: SplitCorpus) -> tuple[list[str], list[str]]:
    return [article.target for article in split.train], [article.target for article in split.validation]


@given(st.integers(1, 30), st.floats(0.01, 0.99), st.integers(0, 9))
def test_every_article_is_trained_on_or_held_back(count: int, share: float, seed: int) -> None:
    train, held = sides(divided([f"article {n}" for n in range(count)], share, seed))
    assert train
    assert held
    if count > 1:
        assert sorted(train + held) == sorted(f"article {n}" for n in range(count))
    else:
        assert train[0] + held[0] == "article 0"


def test_articles_stay_on_their_side_when_others_are_added() -> None:
    texts = [f"article {n}" for n in range(300)]
    train, held = sides(divided(texts))
    more_train, more_held = sides(divided([*(f"new {n}" for n in range(200)), *reversed(texts)]))
    assert set(train) <= set(more_train)
    assert set(held) <= set(more_held)
    assert 60 < len(held) < 120  # .3 of 300, by chance
    assert sides(divided(texts, seed=1))[1] != held


def test_copies_are_removed_or_on_the_same_side() -> None:
    texts = ["a copy", *(f"article {n}" for n in range(20)), "a copy", " a copy "]
    train, held = sides(divided(texts))
    assert (train + held).count("a copy") == 3
    assert not {"a copy"} & set(train) & set(held)
    split = divided(texts, deduplicate="exact")
    assert sum(map(len, sides(split))) == 21
    assert split.counts.duplicates.removed == 2
    id, first, text = split.counts.duplicates.examples[0]
    assert (id.rpartition(":")[2], first.rpartition(":")[2], text) == ("22", "1", "a copy")


def near_copy(text: str, similarity: float, rng: random.Random) -> str:
    """Return the text with single characters changed, so that its 5-grams have about this Jaccard similarity."""
    kept = 2 * similarity / (1 + similarity)  # the fraction of the 5-grams of each text that both have
    characters = list(text)
    for place in rng.sample(range(0, len(text) - SHINGLE, SHINGLE), round((1 - kept) * len(text) / SHINGLE)):
        characters[place + 2] = "※"
    return "".join(characters)


def jaccard(one: str, other: str) -> float:
    left, right = set(shingles(one)), set(shingles(other))
    return len(left & right) / len(left | right)


def test_near_copies_are_found_and_unlike_texts_are_not() -> None:
    pytest.importorskip("rensa")
    rng = random.Random(1)
    found, wrong = 0, 0
    finder = NearDuplicates(0.8)
    originals = ["".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(400)) for _ in range(1100)]
    for number, text in enumerate(originals):
        wrong += finder.first_like(number, text) is not None
    for number, text in enumerate(originals[:100]):
        copy = near_copy(text, 0.8, rng)
        assert jaccard(text, copy) == pytest.approx(0.8, abs=0.02)
        found += finder.first_like(2000 + number, copy) == number
        unlike = near_copy(text, 0.4, rng)
        assert jaccard(text, unlike) == pytest.approx(0.4, abs=0.03)
        wrong += finder.first_like(3000 + number, unlike) is not None
    assert found >= 90
    assert wrong <= 1


def test_near_copies_count_as_duplicates() -> None:
    pytest.importorskip("rensa")
    text = "".join(chr(0x4E00 + n) for n in range(200))
    split = divided([text, text + "。", "another article", text], deduplicate="near")
    assert sum(map(len, sides(split))) == 2
    assert split.counts.duplicates.removed == 2


def test_a_corpus_without_text_is_refused() -> None:
    with pytest.raises(DataError, match="its articles are empty"):
        divided(["", "  "])
