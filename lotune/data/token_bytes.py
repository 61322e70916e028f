"""The bytes that each token of a tokeniser stands for."""

from __future__ import annotations

import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def byte_characters() -> list[str]:
    """Return the character that stands for each byte in byte-level vocabularies, as GPT-2 introduced them.

    >>> byte_characters()[ord("a")], byte_characters()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def token_bytes(tokenizer: Any) -> list[bytes]:
    """Return the bytes of each token by its id: of byte-level tokens, or of SentencePiece's, whose ▁ is a blank."""
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    special = set(tokenizer.all_special_ids)
    bytes_of = {character: byte for byte, character in enumerate(byte_characters())}
    if all(bytes_of.keys() >= set(token) for id, token in enumerate(tokens) if id not in special):
        return [
            token.encode() if id in special else bytes(bytes_of[character] for character in token)
            for id, token in enumerate(tokens)
        ]
    return [
        bytes.fromhex(match[1]) if (match := _BYTE_TOKEN.fullmatch(token)) else token.replace("▁", " ").encode()
        for token in tokens
    ]
