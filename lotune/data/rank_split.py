"""Division of the rows of a step among processes, with about the same number of tokens for each."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RankSplit:
    """The part of each step that process `rank` (from 0) of `size` processes computes."""

    rank: int = 0
    size: int = 1

    def of(self, rows: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return the row indices that this process computes, in their order; `lengths` are the tokens of each row.

        >>> RankSplit(0, 2).of([7, 8, 9], [5, 3, 1]), RankSplit(1, 2).of([7, 8, 9], [5, 3, 1])
        ([7], [8, 9])
        """
        # Every process computes all owners: the assignment follows from the lengths, so nothing is communicated.
        owners = balance_by_tokens(lengths, self.size)
        return [row for row, owner in zip(rows, owners, strict=True) if owner == self.rank]


SINGLE_RANK = RankSplit()
"""The split of a run with a single process: all rows."""


def balance_by_tokens(lengths: Sequence[int], parts: int) -> list[int]:
    """Return the part (from 0) of each row, given the rows' lengths in tokens.

    The longest row is assigned first, and each row goes to the part with the fewest tokens so far. The result depends
    on the lengths only. Every part gets a row if there are at least as many rows as parts.

    >>> balance_by_tokens([5, 1, 4, 2], 2)
    [0, 0, 1, 1]
    """
    loads = [(0, part) for part in range(parts)]
    owners = [0] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        load, part = loads[0]
        owners[row] = part
        # An empty row counts as one token. With zero its part would stay the smallest and get the next row, too.
        heapq.heapreplace(loads, (load + max(1, lengths[row]), part))
    return owners
