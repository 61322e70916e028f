from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lotune.data import tokenization
from lotune.data.examples import Example, Turn
from lotune.data.tokenization import encode_rows, rows_digest
from lotune.data.tokenized import encode_row, encode_text
from lotune.data.tokenizer_training import PRETOKEN_SPLITS, splits_at_pretokens
from lotune.model.loading import load_tokenizer
from lotune.model.settings import BaseSettings
from lotune.tasks.arithmetic.task import ArithmeticSettings
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.user_rows import generating

ALPHABET = "aZéßǅΑж √×，。计算〇々鿿龦0189٣Ⅷ²#\n\t\r\"'<|>[]{}~\x00\x7f\x85\u00a0\u3000\u0301\u200d😀ーع\U00020000"
texts = st.text(st.sampled_from(ALPHABET), max_size=40) | st.text(max_size=40) | st.just("<|endoftext|> x <|pad|>")


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """An example of up to two earlier turns; any of its texts may be empty."""
    turns = tuple(draw(st.lists(st.builds(Turn, texts, texts, st.booleans()), max_size=2)))
    before = "".join(turn.prompt + turn.answer for turn in turns)
    return Example(draw(st.text(max_size=5)), before + draw(texts), draw(texts), earlier_turns=turns)


@pytest.fixture(scope="module")
def nano() -> Any:
    """The tokeniser of the embedded base."""
    return load_tokenizer(BaseSettings())[0]


@pytest.fixture(scope="module")
def framing() -> Any:
    """A fast tokeniser that puts a token before and the end-of-text after every text, as some Llamas' do."""
    from tokenizers import processors

    tokenizer = load_tokenizer(BaseSettings())[0]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A <|endoftext|>", special_tokens=[("<|pad|>", 1), ("<|endoftext|>", 0)]
    )
    return tokenizer


class Slow:
    """A tokeniser that knows one text at a time and nothing of threads: a token a character."""

    eos_token_id = 0
    is_fast = False

    def __call__(self, text: str, add_special_tokens: bool, **how: bool) -> dict[str, list[int]]:
        assert isinstance(text, str)
        return {"input_ids": [5] * add_special_tokens + [ord(character) + 10 for character in text]}


@pytest.mark.parametrize("name", ["nano", "byte_tokenizer", "framing", "slow"])
def test_rows_are_those_that_one_by_one_gives(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = Slow() if name == "slow" else request.getfixturevalue(name)
    assert splits_at_pretokens(tokenizer) == (name == "nano")

    @settings(max_examples=40)
    @given(st.lists(examples(), max_size=7), st.integers(1, 4))
    def check(rows: list[Example], chunk_rows: int) -> None:
        assert list(encode_rows(tokenizer, rows, chunk_rows)) == [encode_row(tokenizer, row) for row in rows]

    check()


@pytest.mark.parametrize("task", ["arithmetic", "reading"])
def test_generated_rows_of_each_language(nano: Any, task: str) -> None:
    for language in ("zh", "en"):
        made = build_task(task_settings(task, language=language))
        rows = list(
            made.examples(((str(n), row) for n, row in enumerate(generating(made).generate_rows(60, 3))), training=True)
        )
        assert list(encode_rows(nano, rows)) == [encode_row(nano, row) for row in rows]


def check_seams(tokenizer: Any, text: str) -> None:
    """Every seam of a text is a place where the tokeniser divides it."""
    parts = PRETOKEN_SPLITS.findall(text)
    assert "".join(parts) == text
    divided = {start for _, (start, _) in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    assert divided.issuperset(accumulate(map(len, parts[:-1])))


@given(text=st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"])))
@example(text="a" * 300 + " " * 300 + "#" * 300)
@example(text="### 计算 12.50 × -3 =\n\n  A  b # # ##")
def test_pretoken_splits_are_where_the_tokeniser_splits_any_text(nano: Any, text: str) -> None:
    check_seams(nano, text)
    assert [token for part in PRETOKEN_SPLITS.findall(text) for token in encode_text(nano, part)] == encode_text(
        nano, text
    )


def test_every_character_of_the_basic_plane_may_stand_beside_a_seam(nano: Any) -> None:
    characters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x10000))]
    for start in range(0, len(characters), 2048):
        check_seams(
            nano, "".join(f"{character}a {character}#{character}" for character in characters[start : start + 2048])
        )


def test_tokenisers_that_split_differently_are_not_cached(nano: Any) -> None:
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    def changed(what: str) -> Any:
        tokenizer = load_tokenizer(BaseSettings())[0]
        if what == "normalizer":
            tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
        elif what == "pre_tokenizer":
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        elif what == "added":
            tokenizer.add_tokens([AddedToken("1 + 1", special=False)])
        return tokenizer

    assert splits_at_pretokens(changed("nothing"))
    assert not any(splits_at_pretokens(changed(what)) for what in ("normalizer", "pre_tokenizer", "added"))
    rows = [Example("1", "1 + 1 = ", "1 + 1"), Example("2", "１ + 1", "ab c")]
    for what in ("normalizer", "pre_tokenizer", "added"):
        assert list(encode_rows(changed(what), rows)) == [encode_row(changed(what), row) for row in rows]


def test_the_cache_is_emptied_when_it_is_full(nano: Any) -> None:
    pieces = tokenization._PretokenCache(nano, max_pretokens=3)
    words = ["one", "two", "three", "four", "five", "six", "one", "two"]
    for word in words:
        assert pieces.encode(word, False) == encode_text(nano, word)
        assert len(pieces) <= 3


@pytest.mark.parametrize("name", ["nano", "byte_tokenizer"])
def test_a_stream_is_read_a_chunk_ahead_at_most(name: str, request: pytest.FixtureRequest) -> None:
    read = 0

    def stream() -> Iterator[Example]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield Example(str(number), "1 + 1 = ", "2")

    rows = encode_rows(request.getfixturevalue(name), stream(), chunk_rows=10)
    assert read == 0
    for number, row in enumerate(rows, 1):
        assert row.id == str(number - 1)
        assert number <= read < number + 10
    assert read == 1000


def test_threads_and_chunks_change_nothing(framing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build_task(ArithmeticSettings())
    rows = list(
        made.examples(((str(n), row) for n, row in enumerate(generating(made).generate_rows(200, 5))), training=True)
    )
    results = []
    for parallel, chunk_rows in (("false", 7), ("true", 7), ("true", 500)):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        results.append(list(encode_rows(framing, rows, chunk_rows)))
    assert results[0] == results[1] == results[2] == [encode_row(framing, row) for row in rows]


def test_the_digest_is_that_of_all_that_decides_the_tokens(nano: Any, framing: Any, byte_tokenizer: Any) -> None:
    row = Example("1", "ab", "c", ("c",), earlier_turns=(Turn("a", "", True),))
    rows = [row, Example("2", "x", "y")]
    further = [
        [replace(row, id="7"), rows[1]], [replace(row, prompt="aB"), rows[1]], [replace(row, target=""), rows[1]],
        [replace(row, prompt="abc", target=""), rows[1]],
        [replace(row, earlier_turns=(Turn("a", "", False),)), rows[1]],
        [replace(row, earlier_turns=(Turn("", "a", True),)), rows[1]], rows[::-1], rows[:1], [*rows, rows[1]],
    ]  # fmt: skip
    results = [rows_digest(nano, rows, {"limit": 8}), *(rows_digest(nano, other, {"limit": 8}) for other in further)]
    results += [rows_digest(nano, rows, {"limit": 9})]
    results += [rows_digest(tokenizer, rows, {"limit": 8}) for tokenizer in (framing, byte_tokenizer)]
    assert len(set(results)) == len(results)
    assert rows_digest(nano, iter(rows), {"limit": 8}) == results[0]
    assert rows_digest(nano, [replace(row, category="sum", references=("d",)), rows[1]], {"limit": 8}) == results[0]
