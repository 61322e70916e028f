"""Rows that a base writes itself: the same for a seed, usable, and as many as are wanted."""

from __future__ import annotations

from typing import Any

import pytest

from lotune.errors import ModelError
from lotune.generate.base_rows import OPENINGS, WrittenRow, write_base_rows
from lotune.generate.engine import Engine


def written(model: Any, tokenizer: Any, rows: int, seed: int = 1) -> list[WrittenRow]:
    engine = Engine(model, tokenizer)
    return list(write_base_rows(engine, tokenizer, rows, seed=seed, max_new_tokens=16, batch_tokens=4096))


def test_rows_follow_from_the_seed_and_begin_with_nothing_or_an_opening(tiny_llama: Any, byte_tokenizer: Any) -> None:
    rows = written(tiny_llama, byte_tokenizer, 12)
    assert len(rows) == len(set(rows)) == 12
    assert rows == written(tiny_llama, byte_tokenizer, 12)
    assert rows != written(tiny_llama, byte_tokenizer, 12, seed=2)
    openings = {row.opening for row in rows}
    assert "" in openings
    assert openings <= {"", *OPENINGS}
    assert all(row.text.strip() for row in rows)


def test_some_rows_begin_as_prompts_do(tiny_llama: Any, byte_tokenizer: Any) -> None:
    engine = Engine(tiny_llama, byte_tokenizer)
    words = {"seed": 1, "max_new_tokens": 16, "batch_tokens": 4096}
    rows = list(write_base_rows(engine, byte_tokenizer, 24, prompts=("### Question:\n",), **words))
    asked = sum(row.opening == "### Question:\n" for row in rows)
    assert 4 <= asked <= 20
    assert any(row.opening in ("", *OPENINGS) for row in rows)


def test_a_base_that_only_ends_gives_no_row(tiny_llama: Any, byte_tokenizer: Any) -> None:
    class OnlyEnds(type(tiny_llama.lm_head)):  # type: ignore[misc]
        def forward(self, hidden: Any) -> Any:
            logits = super().forward(hidden) * 0
            logits[..., 0] = 100.0
            return logits

    tiny_llama.lm_head.__class__ = OnlyEnds
    assert written(tiny_llama, byte_tokenizer, 3) == []


def test_a_tokeniser_without_a_first_token_is_refused() -> None:
    class NoTokens:
        bos_token_id = eos_token_id = None

    engine: Any = None
    with pytest.raises(ModelError, match=r"retention\.replay\.source"):
        next(write_base_rows(engine, NoTokens(), 3, seed=1, max_new_tokens=4, batch_tokens=64))
