"""Duplicate texts: exact ones by a digest, near ones by MinHash over character 5-grams.

Two texts are near duplicates if their sets of 5-grams have a Jaccard similarity of the threshold at least. MinHash
(Broder, 1997) estimates it from 128 values a text; locality-sensitive hashing finds the texts to compare with.
"""

from __future__ import annotations

import importlib
import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from lotune.errors import SettingsError, install_extra

if TYPE_CHECKING:
    import numpy as np

Deduplicate = Literal["none", "exact", "near"]
"""Which duplicates are removed; near ones include exact ones."""
SHINGLE = 5
"""Characters of a gram."""
PERMUTATIONS, BANDS = 128, 32
"""Values of a MinHash, and the bands of these that are looked up: texts of similarity .5 share a band in most cases."""
SLACK = 1.65
"""Standard deviations below the threshold at which an estimate passes, so that 95 % of the pairs at it are found."""


def text_digest(text: str, key: str = "") -> bytes:
    """Return a digest of 16 bytes; two of 10⁹ different texts collide with a chance below 10⁻²⁰."""
    return blake2b(text.encode(), digest_size=16, key=key.encode()[:64]).digest()


class ExactDuplicates:
    """Finds texts that are equal to an earlier one."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def first_like(self, number: int, text: str) -> int | None:
        """Return the number of the first text that is equal, and None for a new one, which is remembered."""
        first = self._seen.setdefault(text_digest(text), number)
        return None if first == number else first


class NearDuplicates:
    """Finds texts whose 5-grams are nearly those of an earlier one.

    A text takes about 1.5 KB. Raises: SettingsError if the package rensa is not installed.
    """

    def __init__(self, threshold: float) -> None:
        import numpy as np  # here, as the settings import this module, and the help would wait for it

        try:
            self._rensa: Any = importlib.import_module("rensa")
        except ImportError:
            found, remedy = "near needs the package rensa", f"{install_extra('corpus')}, or exact"
            raise SettingsError("pretrain.deduplicate", found, remedy=remedy) from None
        self._lsh = self._rensa.RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._least = threshold - SLACK * math.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
        self._digests = np.empty((1024, PERMUTATIONS), dtype=np.uint32)  # (texts that fit, permutations)
        self._numbers: list[int] = []

    def first_like(self, number: int, text: str) -> int | None:
        """Return the number of the most similar earlier text, and None for a new one, which is remembered."""
        import numpy as np

        sketch = self._rensa.RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(shingles(text))
        digest = np.array(sketch.digest(), dtype=np.uint32)  # (permutations,)
        candidates: list[int] = self._lsh.query(sketch)
        if candidates:
            similarities = (self._digests[candidates] == digest).mean(axis=1)  # (candidates,)
            best = int(similarities.argmax())
            if similarities[best] >= self._least:
                return self._numbers[candidates[best]]
        self._remember(number, sketch, digest)
        return None

    def _remember(self, number: int, sketch: Any, digest: np.ndarray) -> None:
        import numpy as np

        index = len(self._numbers)
        if index == len(self._digests):
            self._digests = np.concatenate([self._digests, np.empty_like(self._digests)])
        self._digests[index] = digest
        self._numbers.append(number)
        self._lsh.insert(index, sketch)


def shingles(text: str) -> list[str]:
    """Return the character 5-grams of a text in their order, and a shorter text as the only one.

    >>> shingles("abcdefg"), shingles("ab")
    (['abcde', 'bcdef', 'cdefg'], ['ab'])
    """
    return [text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))]
