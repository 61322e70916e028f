"""Many examples to tokens: chunk by chunk, with the same result as one by one, and much faster.

A tokeniser that lotune trained never merges across certain characters (`PRETOKEN_SPLITS`), so a text's tokens are those
of its pieces one after the other, and most pieces, digits and words, have been met before: they are remembered. For any
other fast tokeniser the texts of a chunk are encoded together, on all its threads. A slow one encodes text by text.
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

from lotune.data.examples import Example
from lotune.data.tokenized import EncodedRow, chunks, encode_row, encode_text, encode_with, strip_eos
from lotune.data.tokenizer_training import PRETOKEN_SPLITS, splits_at_pretokens

EXAMPLES_PER_CALL = 2048
"""Examples whose texts are encoded together."""
MAX_CACHED_PRETOKENS = 2**18
"""Pieces of text that are remembered at most: some 60 MiB."""
TOKENIZATION_VERSION = 1
"""Goes up whenever the same examples become other tokens, so that what was encoded before is not taken for it."""


def encode_rows(
    tokenizer: Any, examples: Iterable[Example], chunk_rows: int = EXAMPLES_PER_CALL
) -> Iterator[EncodedRow]:
    """The examples as `encode_row` encodes them, in their order; no more than `chunk_rows` are held at a time."""
    if splits_at_pretokens(tokenizer):
        pieces = _PretokenCache(tokenizer)
        return (
            encode_row(tokenizer, example)
            if example.turn_end
            else encode_with(pieces.encode, example, tokenizer.eos_token_id)
            for example in examples
        )
    if getattr(tokenizer, "is_fast", False):
        return chain.from_iterable(_encode_together(tokenizer, chunk) for chunk in chunks(examples, chunk_rows))
    return (encode_row(tokenizer, example) for example in examples)


class _PretokenCache(dict[str, tuple[int, ...]]):
    """The token ids of pieces of text, found as they are asked for; all are forgotten when they become too many."""

    def __init__(self, tokenizer: Any, most: int = MAX_CACHED_PRETOKENS) -> None:
        super().__init__()
        self._tokenizer, self._most = tokenizer, most

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(self) >= self._most:
            self.clear()
        ids = self[piece] = tuple(encode_text(self._tokenizer, piece))
        return ids

    def encode(self, text: str, first: bool) -> list[int]:
        """Token ids of a text; a tokeniser with seams puts nothing before one."""
        return list(chain.from_iterable(map(self.__getitem__, PRETOKEN_SPLITS.findall(text))))


def _encode_together(tokenizer: Any, examples: Sequence[Example]) -> Iterator[EncodedRow]:
    """The rows of a chunk: their texts are gathered, encoded at once, and handed out in the same order."""
    end = tokenizer.eos_token_id
    asked: list[tuple[str, bool]] = []
    for example in examples:
        if not example.turn_end:
            encode_with(_record_texts(asked), example, end)
    found = {first: iter(_encode_texts(tokenizer, [text for text, is_first in asked if is_first is first], first))
             for first in (True, False)}  # fmt: skip
    return (
        encode_row(tokenizer, example)
        if example.turn_end
        else encode_with(lambda text, first: next(found[first]), example, end)
        for example in examples
    )


def _record_texts(asked: list[tuple[str, bool]]) -> Callable[[str, bool], Sequence[int]]:
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
    return [strip_eos(ids, tokenizer.eos_token_id) for ids in found] if first else found


def rows_digest(tokenizer: Any, examples: Iterable[Example], settings: Any = None) -> str:
    """The sha256 of all that decides the tokens of examples: their texts and ids, the tokeniser and settings."""
    digest = hashlib.sha256(orjson.dumps([TOKENIZATION_VERSION, _tokenizer_digest(tokenizer), settings]))
    for example in examples:
        turns = [astuple(turn) for turn in example.earlier_turns]
        digest.update(
            orjson.dumps(
                [example.id, example.prompt, example.target, turns, example.turn_end], option=orjson.OPT_APPEND_NEWLINE
            )
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
