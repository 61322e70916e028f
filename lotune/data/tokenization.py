"""Tokenization of many examples, with the results of `encode_row`, but much faster.

A tokeniser that lotune trained never merges across certain characters (`PRETOKEN_SPLITS`). So the tokens of a text are
those of its pre-tokens one after the other, and a cache has most pre-tokens: digits and words repeat. Any other fast
tokeniser encodes the texts of a chunk together, on all its threads. A slow tokeniser encodes one text at a time.
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
"""Number of examples whose texts are encoded together."""
MAX_CACHED_PRETOKENS = 2**18
"""Size limit of the cache of pre-tokens, about 60 MiB."""
TOKENIZATION_VERSION = 1
"""Increased whenever the same examples would get other tokens, so that token files of earlier versions are not used."""


def encode_rows(
    tokenizer: Any, examples: Iterable[Example], chunk_rows: int = EXAMPLES_PER_CALL
) -> Iterator[EncodedRow]:
    """Yield the examples as `encode_row` encodes them, in their order; at most `chunk_rows` are in memory."""
    # In further processes the cache gained nothing: sending the rows takes as long as encoding them (docs/log.md).
    if splits_at_pretokens(tokenizer):
        cache = _PretokenCache(tokenizer)
        return (
            encode_row(tokenizer, example)
            if example.turn_end
            else encode_with(cache.encode, example, tokenizer.eos_token_id)
            for example in examples
        )
    if getattr(tokenizer, "is_fast", False):
        return chain.from_iterable(_encode_chunk(tokenizer, chunk) for chunk in chunks(examples, chunk_rows))
    return (encode_row(tokenizer, example) for example in examples)


class _PretokenCache(dict[str, tuple[int, ...]]):
    """Token ids by pre-token, encoded on first access; emptied when it is full.

    Emptying is simpler than evicting the least recently used ones, and frequent pre-tokens return at once.
    """

    def __init__(self, tokenizer: Any, max_pretokens: int = MAX_CACHED_PRETOKENS) -> None:
        super().__init__()
        self._tokenizer, self._max_pretokens = tokenizer, max_pretokens

    def __missing__(self, pretoken: str) -> tuple[int, ...]:
        if len(self) >= self._max_pretokens:
            self.clear()
        ids = self[pretoken] = tuple(encode_text(self._tokenizer, pretoken))
        return ids

    def encode(self, text: str, first: bool) -> list[int]:
        """Return the token ids of a text; `first` has no effect, as these tokenisers add no begin-of-text."""
        return list(chain.from_iterable(map(self.__getitem__, PRETOKEN_SPLITS.findall(text))))


def _encode_chunk(tokenizer: Any, examples: Sequence[Example]) -> Iterator[EncodedRow]:
    """Yield the rows of a chunk, whose texts are collected, encoded at once, and distributed in the same order."""
    end = tokenizer.eos_token_id
    # A dry run of `encode_with` collects the texts, so that their order is stated in that function only.
    texts: list[tuple[str, bool]] = []
    for example in examples:
        if not example.turn_end:
            encode_with(_record_texts(texts), example, end)
    ids = {first: iter(_encode_texts(tokenizer, [text for text, is_first in texts if is_first is first], first))
           for first in (True, False)}  # fmt: skip
    return (
        encode_row(tokenizer, example)
        if example.turn_end
        else encode_with(lambda text, first: next(ids[first]), example, end)
        for example in examples
    )


def _record_texts(texts: list[tuple[str, bool]]) -> Callable[[str, bool], Sequence[int]]:
    """Return a function in place of an encoder that appends each text to `texts`."""

    def record(text: str, first: bool) -> Sequence[int]:
        texts.append((text, first))
        return ()

    return record


def _encode_texts(tokenizer: Any, texts: list[str], first: bool) -> list[list[int]]:
    """Return the token ids of each text, the same as those of `encode_text`."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=first, split_special_tokens=True, verbose=False,
        return_attention_mask=False, return_token_type_ids=False,
    )["input_ids"]  # fmt: skip
    return [strip_eos(row, tokenizer.eos_token_id) for row in ids] if first else ids


def rows_digest(tokenizer: Any, examples: Iterable[Example], settings: Any = None) -> str:
    """Return the sha256 of everything that determines encoded rows: texts and ids, tokeniser, settings, version."""
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
    """Return the sha256 of the files that transformers writes for a tokeniser."""
    # Not of the files it was read from: a tokeniser may be changed after loading, or come from several formats.
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = file.read_bytes()
            digest.update(orjson.dumps([file.relative_to(folder).as_posix(), len(content)]) + content)
    return digest.hexdigest()
