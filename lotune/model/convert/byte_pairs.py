"""Byte pair encoding: the merges that an ordered vocabulary implies, and the byte-level tokenisers of GPT-2's kind.

A vocabulary says which pieces exist and which of two is merged first, by score or rank. `tokenizers` wants the pairs
whose merging makes each piece, in that order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Patterns of the pre-tokens that are never merged, as GPT-2 and Llama 3 were published with."""


def merges_of(
    pieces: Mapping[str, int], order: Mapping[str, float], excluded: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Return the pairs of pieces that make a piece, those of the piece with the lowest `order` first.

    `pieces` are the ids of all pieces, `order` has those that merging can make.

    >>> merges_of({"a": 0, "b": 1, "ab": 2, "aba": 3}, {"ab": 1, "aba": 0})
    [('ab', 'a'), ('a', 'b')]
    """
    usable = pieces.keys() - set(excluded)
    merged = sorted((piece for piece in order if len(piece) > 1), key=lambda piece: (order[piece], pieces[piece]))
    return [
        pair
        for piece in merged
        for pair in sorted(_splits(piece, usable), key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
    ]


def _splits(piece: str, usable: Collection[str]) -> Iterator[tuple[str, str]]:
    pairs = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
    return ((left, right) for left, right in pairs if left in usable and right in usable)


def byte_level(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pattern: str,
    special_tokens: Sequence[str],
    **options: Any,
) -> Tokenizer:
    """Return a byte-level tokeniser; `special_tokens` that are not in the vocabulary get the next ids."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), **options))
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special_tokens])
    return tokenizer
