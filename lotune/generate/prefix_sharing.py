"""Prompts that begin alike: how much they share, and which of them waits for another to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lotune.generate.running import RunningRequest

MIN_SHARED_TOKENS = 16
"""A shared beginning of fewer tokens is read again: copying it would not pay."""


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike, 0 where they are fewer than MIN_SHARED_TOKENS.

    >>> common_prefix_length(range(40), [*range(30), 5]), common_prefix_length([1, 2, 3], [1, 2, 4])
    (30, 0)
    """
    shortest = min(len(one), len(other))
    if shortest < MIN_SHARED_TOKENS or list(one[:MIN_SHARED_TOKENS]) != list(other[:MIN_SHARED_TOKENS]):
        return 0
    return next((place for place in range(MIN_SHARED_TOKENS, shortest) if one[place] != other[place]), shortest)


def group_by_prefix(
    rows: list[RunningRequest], shared: list[int]
) -> tuple[list[int], list[tuple[int, RunningRequest, RunningRequest]]]:
    """The places of rows to read on their own, and (tokens shared, with which of those, row) for the others.

    A row follows another where it shares half of its prompt with it, and more than `shared` with a slot.
    """
    apart: list[int] = []
    followers = []
    leaders: dict[Any, list[RunningRequest]] = {}
    for place, row in enumerate(rows):
        alike = leaders.setdefault((row.request.adapter, row.prompt[:MIN_SHARED_TOKENS]), [])
        most, leader = max(
            ((common_prefix_length(row.prompt, other.prompt), -n) for n, other in enumerate(alike)), default=(0, 0)
        )
        if most > shared[place] and 2 * most >= row.length:
            followers.append((most, alike[-leader], row))
        else:
            apart.append(place)
            alike.append(row)
    return apart, followers
