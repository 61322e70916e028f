"""Articles are cut into blocks; the contest course's rules for blocks hold on its own articles."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.blocks import SENTENCE_ENDS, BlockRule, SentenceEnds, chunk_articles
from lotune.data.corpus import Corpus
from lotune.data.token_bytes import token_bytes
from lotune.data.tokenized import EncodedRow

EOS, STOP = 0, 9
ARTICLES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), min_size=1, max_size=6)


def cut(articles: list[list[int]], size: int, how: Any) -> tuple[list[tuple[int, ...]], Counter[str]]:
    counts: Counter[str] = Counter()
    rows = [EncodedRow(str(number), (*tokens, EOS), 0) for number, tokens in enumerate(articles)]
    rule = BlockRule(size, how, None if how == "stream" else after_stops)
    return [block.token_ids for block in chunk_articles(rows, rule, counts)], counts


def after_stops(tokens: list[int]) -> list[int]:
    return [place for place, token in enumerate(tokens, start=1) if token == STOP]


@given(ARTICLES, st.integers(8, 20))
def test_a_block_is_whole_sentences_and_an_end(articles: list[list[int]], size: int) -> None:
    result, counts = cut(articles, size, "first_block")
    fitting = [[n for n in range(2, len(a) + 1) if a[n - 1] == STOP and n < size] for a in articles]
    expected = [(*a[: positions[-1]], EOS) for a, positions in zip(articles, fitting, strict=True) if positions]
    assert result == expected
    dropped = [article for article, positions in zip(articles, fitting, strict=True) if not positions]
    assert (counts["articles"], counts["blocks"], counts["dropped"]) == (len(articles), len(result), len(dropped))
    assert counts["tokens"] == sum(map(len, result))
    assert counts["cut_tokens"] == sum(map(len, articles)) - sum(len(block) - 1 for block in result)


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
    assert counts == Counter(articles=3, blocks=3, dropped=1, tokens=8, cut=2, cut_tokens=31, padding=10)


@given(ARTICLES, st.integers(8, 20))
def test_a_stream_loses_no_token(articles: list[list[int]], size: int) -> None:
    results, _ = cut(articles, size, "stream")
    complete = [token for article in articles for token in (*article, EOS)]
    joined = [token for block in results for token in block]
    assert joined == complete[: len(joined)]
    assert len(complete) - len(joined) <= 1
    assert all(len(block) == size for block in results[:-1])


def ends_of(tokenizer: Any, text: str, texts: Sequence[str] = SENTENCE_ENDS) -> list[str]:
    """Return the sentences of a text as the tokens give them, and what is left."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    stops = [0, *SentenceEnds(tokenizer, texts)(ids), len(ids)]
    return [tokenizer.decode(ids[start:stop]) for start, stop in itertools.pairwise(stops)]


@pytest.fixture(scope="module")
def nano_tokenizer() -> Any:
    from lotune.model.loading import load_tokenizer
    from lotune.model.settings import BaseSettings

    return load_tokenizer(BaseSettings())[0]


@pytest.fixture(scope="module")
def gpt2_tokenizer(reference_data: Path) -> Any:
    from lotune.model.convert.tokenizer_files import read_tokenizer

    return read_tokenizer(reference_data / "tokenizers" / "gpt2")[0]


SENTENCES = ["圆周率是3.14。", "对吗？", "See example.com, v2.0!", " Yes.", "“对！", "”他说。", "没有句号"]


def test_sentences_of_every_tokeniser(byte_tokenizer: Any, nano_tokenizer: Any) -> None:
    for tokenizer in (byte_tokenizer, nano_tokenizer):
        assert ends_of(tokenizer, "".join(SENTENCES)) == SENTENCES
        assert ends_of(tokenizer, "One.Two. Three", ["。", "Two."]) == ["One.Two.", " Three"]


def test_an_end_takes_several_tokens_or_shares_one(gpt2_tokenizer: Any) -> None:
    assert len(gpt2_tokenizer("？", add_special_tokens=False)["input_ids"]) == 3
    assert ends_of(gpt2_tokenizer, "".join(SENTENCES)) == SENTENCES
    assert ends_of(gpt2_tokenizer, "First...\n\nSecond.") == ["First...", "\n\nSecond.", ""]
    # "...", "?)" and ".\"" are single tokens.
    assert ends_of(gpt2_tokenizer, 'So?) He said "no." Then.') == ["So?)", ' He said "no."', " Then.", ""]


@pytest.mark.parametrize("text", ["", "？", "naïve 算 🙂\n\tx"])
def test_bytes_of_tokens_give_back_the_text(byte_tokenizer: Any, nano_tokenizer: Any, text: str) -> None:
    for tokenizer in (byte_tokenizer, nano_tokenizer):
        table = token_bytes(tokenizer)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(table[id] for id in ids).decode() == text


def plain_block(tokenizer: Any, text: str, block_size: int) -> list[int] | None:
    """The course's rule, written plainly: encode, then cut after the last 。 that fits, then end-of-text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    stop = tokenizer("。", add_special_tokens=False)["input_ids"]
    for start in range(block_size, -1, -1):
        if ids[start : start + len(stop)] == stop and start + len(stop) < block_size:
            return [*ids[: start + len(stop)], tokenizer.eos_token_id]
    return None


@pytest.mark.oracle
@pytest.mark.parametrize("size", [64, 512])
def test_blocks_of_real_articles_are_those_of_the_course(reference_data: Path, gpt2_tokenizer: Any, size: int) -> None:
    from lotune.data.tokenization import encode_rows

    articles = list(Corpus(reference_data / "zh_wiki", "wiki").articles())
    counts: Counter[str] = Counter()
    rule = BlockRule(size, "first_block", SentenceEnds(gpt2_tokenizer, ["。"]))
    blocks = [list(block.token_ids) for block in chunk_articles(encode_rows(gpt2_tokenizer, articles), rule, counts)]
    expected = [plain_block(gpt2_tokenizer, article.target, size) for article in articles]
    assert blocks == [block for block in expected if block is not None]
    assert counts["dropped"] == expected.count(None)
    assert counts["articles"] == counts["blocks"] + counts["dropped"]
    assert all(gpt2_tokenizer.decode(block).endswith("。<|endoftext|>") for block in blocks)
