"""Keys and values of ended rows, kept so that a conversation that goes on does not compute its beginning again.

Shapes: G key heads, E head size, T tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from lotune.generate.prefix_sharing import MIN_SHARED_TOKENS, common_prefix_length


@dataclass(frozen=True, eq=False)
class StoredPrefix:
    """Token ids with the keys and values (G, T, E) of each layer, computed with `adapter`."""

    ids: tuple[int, ...]
    adapter: str | None
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        """The memory of the keys and values in bytes."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class PrefixCache:
    """Stored prefixes of at most `max_bytes`; the one that was used least recently goes first.

    A prefix is found by hashes of its blocks of MIN_SHARED_TOKENS tokens, each with all tokens before it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.nbytes = max_bytes, 0
        self._stored: OrderedDict[StoredPrefix, None] = OrderedDict()
        self._by_block: dict[int, StoredPrefix] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def clear(self) -> None:
        """Forget all prefixes."""
        self._stored.clear()
        self._by_block.clear()
        self.nbytes = 0

    def put(self, prefix: StoredPrefix) -> None:
        """Store a prefix, in place of one that it continues."""
        if prefix.nbytes > self.max_bytes or len(prefix.ids) < MIN_SHARED_TOKENS:
            return
        shared, known = self.find(prefix.ids, prefix.adapter)
        if known is not None and shared == len(prefix.ids):
            return
        if known is not None and shared == len(known.ids):
            self._remove(known)
        self._stored[prefix] = None
        self.nbytes += prefix.nbytes
        for block in _block_hashes(prefix.ids, prefix.adapter):
            self._by_block[block] = prefix
        while self.nbytes > self.max_bytes:
            self._remove(next(iter(self._stored)))

    def find(self, ids: Sequence[int], adapter: str | None) -> tuple[int, StoredPrefix | None]:
        """Return the number of tokens that a prompt shares with a stored prefix, and that prefix; 0 and None if none.

        Fewer than MIN_SHARED_TOKENS do not count.
        """
        found = None
        for block in _block_hashes(ids, adapter):
            if block not in self._by_block:
                break
            found = self._by_block[block]
        if found is None or found.adapter != adapter:
            return 0, None
        shared = common_prefix_length(ids, found.ids)
        if shared:
            self._stored.move_to_end(found)
        return shared, found if shared else None

    def _remove(self, prefix: StoredPrefix) -> None:
        del self._stored[prefix]
        self.nbytes -= prefix.nbytes
        for block in _block_hashes(prefix.ids, prefix.adapter):
            if self._by_block.get(block) is prefix:
                del self._by_block[block]


def _block_hashes(ids: Sequence[int], adapter: str | None) -> Iterator[int]:
    """Yield a hash of the first block of tokens, of the first two blocks, and so on; a part of a block is left out."""
    value = hash(adapter)
    for end in range(MIN_SHARED_TOKENS, len(ids) + 1, MIN_SHARED_TOKENS):
        value = hash((value, *ids[end - MIN_SHARED_TOKENS : end]))
        yield value
