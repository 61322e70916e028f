"""Articles are cut into blocks; the contest course's rules for blocks hold on its own articles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.blocks import chunk_articles, sentence_ends
from lotune.data.corpus import Corpus
from lotune.data.tokenized import EncodedRow

EOS, STOP = 0, 9
ENDS = frozenset({STOP})
ARTICLES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), min_size=1, max_size=6)


def cut(articles: list[list[int]], size: int, how: Any) -> tuple[list[tuple[int, ...]], Counter[str]]:
    counts: Counter[str] = Counter()
    rows = [EncodedRow(str(number), (*tokens, EOS), 0) for number, tokens in enumerate(articles)]
    return [block.token_ids for block in chunk_articles(rows, size, how, ENDS, counts)], counts


@given(ARTICLES, st.integers(8, 20))
def test_a_block_is_whole_sentences_and_an_end(articles: list[list[int]], size: int) -> None:
    result, counts = cut(articles, size, "first_block")
    fitting = [[n for n in range(2, len(a) + 1) if a[n - 1] == STOP and n < size] for a in articles]
    expected = [(*a[: positions[-1]], EOS) for a, positions in zip(articles, fitting, strict=True) if positions]
    assert result == expected
    assert counts == Counter(articles=len(articles), blocks=len(result), dropped=len(articles) - len(result))


@given(ARTICLES, st.integers(8, 20))
def test_all_blocks_give_back_the_sentences_that_fit(articles: list[list[int]], size: int) -> None:
    for article in articles:
        results, counts = cut([article], size, "sentences")
        assert all(2 <= len(block) <= size for block in results)
        assert counts["dropped"] == (not results)
        assert [block[-1] == EOS for block in results] == [False] * (len(results) - 1) + [True] * bool(results)
        joined = [token for block in results for token in block if token != EOS]
        sentences = [[*map(int, part), STOP] for part in "".join(map(str, article)).split("9")[:-1]]
        if all(2 <= len(sentence) < size for sentence in sentences):
            assert joined == [token for sentence in sentences for token in sentence]
        missing = [sentence for sentence in sentences if 2 <= len(sentence) < size]
        for sentence in missing:
            assert "".join(map(str, sentence)) in "".join(map(str, joined))


def test_a_sentence_that_is_too_long_is_left_out() -> None:
    long = [1] * 9
    result, counts = cut([[2, 9, *long, 9, 3, 9], [9, *long, 9], [*long, 9, 4, 9]], 6, "sentences")
    assert result == [(2, 9), (3, 9, EOS), (4, 9, EOS)]
    assert counts == Counter(articles=3, blocks=3, dropped=1)


@given(ARTICLES, st.integers(8, 20))
def test_a_stream_loses_no_token(articles: list[list[int]], size: int) -> None:
    results, _ = cut(articles, size, "stream")
    complete = [token for article in articles for token in (*article, EOS)]
    joined = [token for block in results for token in block]
    assert joined == complete[: len(joined)]
    assert len(complete) - len(joined) <= 1
    assert all(len(block) == size for block in results[:-1])


def test_sentence_ends_are_tokens_that_end_a_sentence(byte_tokenizer: Any) -> None:
    ends = {byte_tokenizer.decode([token]) for token in sentence_ends(byte_tokenizer)}
    assert {".", "!", "?"} <= ends
    assert not {"a", ","} & ends


@pytest.mark.oracle
def test_blocks_of_real_articles_end_with_a_sentence(reference_data: Path) -> None:
    from lotune.data.tokenization import encode_rows
    from lotune.model.loading import load_tokenizer
    from lotune.model.settings import BaseSettings

    nano_tokenizer: Any = load_tokenizer(BaseSettings())[0]
    counts: Counter[str] = Counter()
    articles = Corpus(reference_data / "zh_wiki" / "wiki_zh_AA_00.jsonl", "wiki").articles()
    rows = encode_rows(nano_tokenizer, articles)
    results = list(chunk_articles(rows, 512, "first_block", sentence_ends(nano_tokenizer), counts))
    assert counts["articles"] == counts["blocks"] + counts["dropped"]
    assert counts["blocks"] > 50
    for block in results:
        text = nano_tokenizer.decode(list(block.token_ids[:-1]))
        assert len(block.token_ids) <= 512
        assert text.rstrip()[-1] in "。！？.!?"
        assert block.token_ids[-1] == nano_tokenizer.eos_token_id
