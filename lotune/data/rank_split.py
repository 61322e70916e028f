"""Rows divided among processes, so that each has about as many tokens to compute."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RankSplit:
    """The part of each step that one of `size` processes computes, `rank` counted from 0."""

    rank: int = 0
    size: int = 1

    def of(self, places: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Those of some places, in their order, that fall to this process; `lengths` are the tokens of each.

        >>> RankSplit(0, 2).of([7, 8, 9], [5, 3, 1]), RankSplit(1, 2).of([7, 8, 9], [5, 3, 1])
        ([7], [8, 9])
        """
        owners = balance_by_tokens(lengths, self.size)
        return [place for place, owner in zip(places, owners, strict=True) if owner == self.rank]


SINGLE_RANK = RankSplit()
"""The share of a process that is alone."""


def balance_by_tokens(lengths: Sequence[int], parts: int) -> list[int]:
    """The part, from 0, that each row falls to: longest first, each to the part with the fewest tokens so far.

    The result depends on the lengths alone. Every part gets a row where there are as many as parts.

    >>> balance_by_tokens([5, 1, 4, 2], 2)
    [0, 0, 1, 1]
    """
    loads = [(0, part) for part in range(parts)]
    owners = [0] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        load, part = loads[0]
        owners[row] = part
        heapq.heapreplace(loads, (load + max(1, lengths[row]), part))
    return owners
