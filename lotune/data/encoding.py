"""Many examples to tokens: chunk by chunk, with the same result as one by one, and much faster.

A tokeniser that lotune trained never merges across certain characters (`SEAMS`), so a text's tokens are those of its
pieces one after the other, and most pieces, digits and words, have been met before: they are remembered. For any other
fast tokeniser the texts of a chunk are encoded together, on all its threads. A slow one encodes text by text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from lotune.data.batches import EncodedRow, chunks, encode_row, encode_text, row_of, without_end
from lotune.data.examples import Example
from lotune.data.tokenizers import SEAMS, has_seams

CHUNK_ROWS = 2048
"""Examples whose texts are encoded together."""
MOST_PIECES = 2**18
"""Pieces of text that are remembered at most: some 60 MiB."""
FORM = 1
"""Goes up whenever the same examples become other tokens, so that what was encoded before is not taken for it."""


def encode_rows(tokenizer: Any, examples: Iterable[Example], chunk_rows: int = CHUNK_ROWS) -> Iterator[EncodedRow]:
    """The examples as `encode_row` encodes them, in their order; no more than `chunk_rows` are held at a time."""
    if has_seams(tokenizer):
        pieces = _Pieces(tokenizer)
        return (row_of(pieces.encode, example, tokenizer.eos_token_id) for example in examples)
    if getattr(tokenizer, "is_fast", False):
        return chain.from_iterable(_encode_together(tokenizer, chunk) for chunk in chunks(examples, chunk_rows))
    return (encode_row(tokenizer, example) for example in examples)


class _Pieces(dict[str, tuple[int, ...]]):
    """The token ids of pieces of text, found as they are asked for; all are forgotten when they become too many."""

    def __init__(self, tokenizer: Any, most: int = MOST_PIECES) -> None:
        super().__init__()
        self._tokenizer, self._most = tokenizer, most

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(self) >= self._most:
            self.clear()
        ids = self[piece] = tuple(encode_text(self._tokenizer, piece))
        return ids

    def encode(self, text: str, first: bool) -> list[int]:
        """Token ids of a text; a tokeniser with seams puts nothing before one."""
        return list(chain.from_iterable(map(self.__getitem__, SEAMS.findall(text))))


def _encode_together(tokenizer: Any, examples: Sequence[Example]) -> Iterator[EncodedRow]:
    """The rows of a chunk: their texts are gathered, encoded at once, and handed out in the same order."""
    end = tokenizer.eos_token_id
    asked: list[tuple[str, bool]] = []
    for example in examples:
        row_of(_noting(asked), example, end)
    found = {first: iter(_encode_texts(tokenizer, [text for text, is_first in asked if is_first is first], first))
             for first in (True, False)}  # fmt: skip
    return (row_of(lambda text, first: next(found[first]), example, end) for example in examples)


def _noting(asked: list[tuple[str, bool]]) -> Callable[[str, bool], Sequence[int]]:
    def note(text: str, first: bool) -> Sequence[int]:
        asked.append((text, first))
        return ()

    return note


def _encode_texts(tokenizer: Any, texts: list[str], first: bool) -> list[list[int]]:
    """Token ids of each text, as `encode_text` gives them."""
    if not texts:
        return []
    found: list[list[int]] = tokenizer(
        texts, add_special_tokens=first, split_special_tokens=True, verbose=False,
        return_attention_mask=False, return_token_type_ids=False,
    )["input_ids"]  # fmt: skip
    return [without_end(ids, tokenizer.eos_token_id) for ids in found] if first else found


def rows_digest(tokenizer: Any, examples: Iterable[Example], settings: Any = None) -> str:
    """The sha256 of all that decides the tokens of examples: their texts and ids, the tokeniser and settings."""
    digest = hashlib.sha256(orjson.dumps([FORM, _tokenizer_digest(tokenizer), settings]))
    for example in examples:
        turns = [astuple(turn) for turn in example.turns]
        digest.update(
            orjson.dumps([example.id, example.prompt, example.target, turns], option=orjson.OPT_APPEND_NEWLINE)
        )
    return digest.hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    """The sha256 of a tokeniser's files, in the form in which transformers writes them."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = file.read_bytes()
            digest.update(orjson.dumps([file.relative_to(folder).as_posix(), len(content)]) + content)
    return digest.hexdigest()
