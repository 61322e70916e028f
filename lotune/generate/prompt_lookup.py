"""Tokens that an answer may go on with, looked up in what was read: answers copy from prompts, and repeat themselves.

A pass over a few tokens of one row takes little longer than one over a single token, as the weights are read once. So
what followed the same tokens before is read along as a draft, and the model's own choice is taken at each place: the
draft decides nothing but how much is read at once (prompt lookup; speculative decoding, Leviathan et al. 2023).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

MAX_CANDIDATES = 8
"""So many of the last places of a token are looked at."""
MAX_MATCH = 16
"""Tokens before two places that are compared at most."""
DEFAULT_DRAFT_LENGTH, MAX_DRAFT_LENGTH = 8, 31
"""Tokens of a draft where the one before was right in part, and of any."""
COOLDOWN = 8
"""Tokens without a draft after several of which nothing was right."""
MAX_HISTORY = 8192
"""Tokens of ended answers that are looked up at most; then remembering begins anew."""


class NgramIndex:
    """Token ids in order, and for each the places after where it stood last."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._after: dict[int, deque[int]] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens at the end. What follows the last one is not known yet, so it is not looked up."""
        for id in ids:
            if self.ids:
                self._after.setdefault(self.ids[-1], deque(maxlen=MAX_CANDIDATES)).append(len(self.ids))
            self.ids.append(id)

    def look_up(self, ids: Sequence[int]) -> tuple[int, int]:
        """(tokens alike, place): the place before which most is as at the end of `ids`, of several the last one.

        >>> NgramIndex([5, 6, 1, 9, 6, 2]).look_up([5, 6]), NgramIndex([5, 6]).look_up([6])
        ((2, 2), (0, 0))
        """
        places = reversed(self._after.get(ids[-1], ())) if ids else ()
        return max(((self._alike(place, ids), place) for place in places), key=lambda one: one[0], default=(0, 0))

    def _alike(self, place: int, ids: Sequence[int]) -> int:
        most = min(place, len(ids), MAX_MATCH)
        return next((n for n in range(1, most) if self.ids[place - 1 - n] != ids[-1 - n]), most)


def propose_draft(own: NgramIndex, past: NgramIndex, most: int) -> list[int]:
    """What may follow the tokens of a row, at most so many: what followed in the row itself, or in rows before it.

    Of two places the one is taken before which more is alike. What repeats is gone on with beyond its end.

    >>> propose_draft(NgramIndex([7, 8, 9, 5, 7, 8]), NgramIndex(), 2)
    [9, 5]
    >>> propose_draft(NgramIndex([7, 8, 7, 8]), NgramIndex(), 5)
    [7, 8, 7, 8, 7]
    >>> propose_draft(NgramIndex([1, 2]), NgramIndex([3, 1, 2, 4]), 3)
    [4]
    """
    found = [(*trail.look_up(own.ids), trail) for trail in (own, past)]
    alike, place, trail = max(found, key=lambda one: one[0])
    if not alike or most < 1:
        return []
    guessed = trail.ids[place : place + most]
    period = len(trail.ids) - place
    while trail is own and len(guessed) < most:
        guessed.append(guessed[-period])
    return guessed
