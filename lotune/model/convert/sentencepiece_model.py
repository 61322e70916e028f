"""Tokenisers of SentencePiece (`tokenizer.model`), and of llama2.c, which are SentencePiece's pieces and scores alone.

Spaces are written as ▁ in pieces. Merging takes the pair whose piece has the highest score; a character without a piece
becomes its bytes. Source: sentencepiece_model.proto; tokenizer.py and run.c of llama2.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.errors import ModelError, install_extra
from lotune.model.convert.byte_pairs import merges_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces in SentencePiece."""
UNIGRAM, BPE = 1, 2
"""Types of models in SentencePiece."""
LLAMA2C_SPECIAL = ("<unk>", "<s>", "</s>")
MOST_TOKEN_BYTES = 2**16
FIRST_BYTE_ID = len(LLAMA2C_SPECIAL)
"""Where llama2.c expects the pieces of the 256 bytes."""


@dataclass(frozen=True)
class Piece:
    """A piece with its score and type."""

    text: str
    score: float
    kind: int = NORMAL


@dataclass(frozen=True)
class Pieces:
    """A vocabulary of SentencePiece, by id, and how texts are prepared for it."""

    pieces: Sequence[Piece]
    is_unigram: bool = False
    byte_fallback: bool = True
    adds_space: bool = True
    removes_spaces: bool = False
    normalization: bytes = b""


def is_sentencepiece(path: Path) -> bool:
    """Return whether a file begins as a model of SentencePiece does: with its first piece, the field 1."""
    with path.open("rb") as file:
        start = file.read(3)
    return len(start) == 3 and start[0] == 0x0A and start[2] == 0x0A


def read_sentencepiece(path: Path) -> Pieces:
    """Return the vocabulary in a model of SentencePiece.

    Raises: ModelError if the package is not installed, or the file is damaged or of another kind of model.
    """
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError:
        found = "a tokeniser of SentencePiece needs the package sentencepiece"
        raise ModelError(str(path), found, "tokenizer.json, or the package", install_extra("convert")) from None
    proto: Any = messages.ModelProto()  # type: ignore[attr-defined]  # made when the module is imported
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(str(path), f"is damaged: {error}", "a model of SentencePiece", "download it again") from None
    kind = proto.trainer_spec.model_type
    if kind not in (UNIGRAM, BPE) or not proto.pieces:
        raise ModelError(str(path), "has neither unigrams nor byte pairs", "a model of SentencePiece of these kinds")
    # SentencePiece itself treats a zero byte as unused where bytes stand for characters.
    pieces = [Piece(one.piece, one.score, UNUSED if one.piece == "\0" else one.type) for one in proto.pieces]
    normalizer = proto.normalizer_spec
    return Pieces(
        pieces,
        kind == UNIGRAM,
        proto.trainer_spec.byte_fallback,
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
        normalizer.precompiled_charsmap,
    )


def is_llama2c_tokenizer(path: Path) -> bool:
    """Return whether a file begins as a tokeniser of llama2.c: the longest length, then a score and <unk>."""
    with path.open("rb") as file:
        start = file.read(12 + len(LLAMA2C_SPECIAL[0]))
    return start[12:] == LLAMA2C_SPECIAL[0].encode() and start[8:12] == struct.pack("<i", len(start) - 12)


def read_llama2c_tokenizer(path: Path) -> Pieces:
    """Return the vocabulary in llama2.c's tokenizer.bin: the longest length, then score, length and bytes of each.

    Raises: ModelError if it is truncated or damaged.
    """
    content = path.read_bytes()
    if len(content) < 4:
        raise ModelError(str(path), "is too short", "a tokenizer.bin of llama2.c", "export it again")
    position, pieces = 4, list[Piece]()
    while position < len(content):
        text, score, position = _next_token(content, position, path, len(pieces))
        number = len(pieces)
        if number < FIRST_BYTE_ID:
            pieces.append(Piece(text.strip("\n"), 0.0, UNKNOWN if number == 0 else CONTROL))
        else:
            kind = BYTE if number < FIRST_BYTE_ID + 256 and text == f"<0x{number - FIRST_BYTE_ID:02X}>" else NORMAL
            pieces.append(Piece(text.replace(" ", SPACE), score, kind))
    if tuple(piece.text for piece in pieces[:FIRST_BYTE_ID]) != LLAMA2C_SPECIAL:
        raise ModelError(str(path), "does not begin with <unk>, <s> and </s>", "a tokenizer.bin of llama2.c")
    return Pieces(pieces, byte_fallback=any(piece.kind == BYTE for piece in pieces))


def _next_token(content: bytes, position: int, path: Path, number: int) -> tuple[str, float, int]:
    """Return text and score of the token at a position of a file, and where the next one begins."""
    expected, remedy = "score, length and bytes of each token", "export it again"
    if position + 8 > len(content):
        raise ModelError(str(path), f"ends in token {number}", expected, remedy)
    score, length = struct.unpack_from("<fi", content, position)
    end = position + 8 + length
    if not 0 <= length <= MOST_TOKEN_BYTES or not isfinite(score):
        raise ModelError(str(path), f"token {number} has the length {length} and the score {score}", expected, remedy)
    if end > len(content):
        raise ModelError(str(path), f"ends in token {number}", expected, remedy)
    try:
        return content[position + 8 : end].decode(), score, end
    except UnicodeDecodeError:
        raise ModelError(str(path), f"token {number} is not UTF-8", expected, remedy) from None


def with_names(pieces: Sequence[Piece], names: Mapping[int, tuple[str, bool]]) -> list[Piece]:
    """Return the pieces with other names for some ids, as a tokenizer_config.json gives them; True for special tokens.

    >>> with_names([Piece("<unk>", 0.0), Piece("[UNUSED]", 0.0)], {1: ("<|im_start|>", True)})[1]
    Piece(text='<|im_start|>', score=0.0, kind=3)
    """
    renamed = list(pieces)
    for number, (text, special) in names.items():
        if number < len(pieces) and pieces[number].kind != UNKNOWN:
            renamed[number] = Piece(text, 0.0, CONTROL if special else USER_DEFINED)
    return renamed


def from_pieces(vocabulary: Pieces) -> Tokenizer:
    """Return the tokeniser that encodes as SentencePiece does with a vocabulary."""
    from tokenizers import AddedToken, Tokenizer, models

    ids = _unique_ids(vocabulary.pieces)
    kinds = {piece.text: piece.kind for piece in reversed(vocabulary.pieces)}
    unknown = next((number for number, piece in enumerate(vocabulary.pieces) if piece.kind == UNKNOWN), None)
    model: Any
    if vocabulary.is_unigram:
        scored = [(text, piece.score) for (text, _), piece in zip(ids.items(), vocabulary.pieces, strict=True)]
        model = models.Unigram(scored, unk_id=unknown, byte_fallback=vocabulary.byte_fallback)
    else:
        order = {piece.text: -piece.score for piece in vocabulary.pieces if kinds[piece.text] == NORMAL}
        unmerged = [text for text in ids if kinds.get(text) not in (NORMAL, USER_DEFINED)]
        options = {} if unknown is None else {"unk_token": vocabulary.pieces[unknown].text}
        merges = merges_of(ids, order, unmerged)
        model = models.BPE(ids, merges, fuse_unk=True, byte_fallback=vocabulary.byte_fallback, **options)
    tokenizer = Tokenizer(model)
    _prepare_texts(tokenizer, vocabulary)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ids if kinds.get(text) in (CONTROL, UNKNOWN)]
    )
    # SentencePiece finds them after spaces have become ▁, which a tokeniser that adds a space cannot do.
    tokenizer.add_tokens(
        [
            AddedToken(text, normalized=not vocabulary.adds_space, special=False)
            for text in ids
            if kinds.get(text) == USER_DEFINED and not (vocabulary.adds_space and SPACE in text)
        ]
    )
    return tokenizer


def _unique_ids(pieces: Sequence[Piece]) -> dict[str, int]:
    """Return the id of each piece; a piece that repeats an earlier one gets a name that no text has.

    >>> _unique_ids([Piece("a", 0.0), Piece("a", 0.0)])
    {'a': 0, '<repeated 1>': 1}
    """
    ids: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        ids[piece.text if piece.text not in ids else f"<repeated {number}>"] = number
    return ids


def _prepare_texts(tokenizer: Tokenizer, vocabulary: Pieces) -> None:
    """Set how texts are normalised before, and how pieces become text again."""
    from tokenizers import Regex, decoders, normalizers

    steps: list[Any] = [normalizers.Precompiled(vocabulary.normalization)] if vocabulary.normalization else []
    if vocabulary.removes_spaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    # Not the pre-tokeniser Metaspace, which adds no space to a text that begins with one; SentencePiece does.
    steps += [normalizers.Prepend(SPACE)] if vocabulary.adds_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    ends = [decoders.Strip(" ", 1, 0)] if vocabulary.adds_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
