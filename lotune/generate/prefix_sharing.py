"""Prompts that begin alike: how many tokens they share, and which of them waits until another has been read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lotune.generate.running import RunningRequest

MIN_SHARED_TOKENS = 16
"""A shared prefix of fewer tokens is read again, as copying it would not pay."""


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of tokens with which both rows begin, or 0 if it is below MIN_SHARED_TOKENS.

    >>> common_prefix_length(range(40), [*range(30), 5]), common_prefix_length([1, 2, 3], [1, 2, 4])
    (30, 0)
    """
    shortest = min(len(a), len(b))
    # most pairs of rows differ early, and comparing slices is faster than the loop below
    if shortest < MIN_SHARED_TOKENS or list(a[:MIN_SHARED_TOKENS]) != list(b[:MIN_SHARED_TOKENS]):
        return 0
    return next((index for index in range(MIN_SHARED_TOKENS, shortest) if a[index] != b[index]), shortest)


def group_by_prefix(
    rows: list[RunningRequest], shared: list[int]
) -> tuple[list[int], list[tuple[int, RunningRequest, RunningRequest]]]:
    """Return the indices of the leaders, which are read on their own, and (tokens shared, leader, row) for the others.

    A row follows a leader if they share at least half of its prompt, and more than the `shared` tokens of a slot.
    """
    leaders: list[int] = []
    followers = []
    candidates: dict[Any, list[RunningRequest]] = {}
    for index, row in enumerate(rows):
        same_start = candidates.setdefault((row.request.adapter, row.prompt[:MIN_SHARED_TOKENS]), [])
        # the number is negative so that the first leader wins if several share as much
        length, number = max(
            ((common_prefix_length(row.prompt, leader.prompt), -n) for n, leader in enumerate(same_start)),
            default=(0, 0),
        )
        if length > shared[index] and 2 * length >= row.length:
            followers.append((length, same_start[-number], row))
        else:
            leaders.append(index)
            same_start.append(row)
    return leaders, followers
