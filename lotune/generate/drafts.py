"""Tokens that an answer may go on with, looked up in what was read: answers copy from prompts, and repeat themselves.

A pass over a few tokens of one row takes little longer than one over a single token, as the weights are read once. So
what followed the same tokens before is read along as a draft, and the model's own choice is taken at each place: the
draft decides nothing but how much is read at once (prompt lookup; speculative decoding, Leviathan et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GRAM = 2
"""So many tokens have to be alike before what followed them is guessed to follow again."""
FIRST_DRAFT, MOST_DRAFTED = 4, 15
"""Tokens of the first draft of a row, and of any."""
MOST_ALIKE = 16
"""Tokens that are compared to choose between two places."""
MOST_REMEMBERED = 8192
"""Tokens of ended answers that are looked up at most; then remembering begins anew."""


class Trail:
    """Token ids in order, and for each GRAM neighbours the place after where they stood last."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens at the end. What follows the last ones is not known yet, so they are not looked up."""
        for id in ids:
            if len(self.ids) >= GRAM:
                self._after[tuple(self.ids[-GRAM:])] = len(self.ids)
            self.ids.append(id)

    def place(self, ids: Sequence[int]) -> int | None:
        """The place after where the last tokens of `ids` stood last; None where they never did."""
        return self._after.get(tuple(ids[-GRAM:]))

    def alike(self, place: int, ids: Sequence[int]) -> int:
        """How many tokens before a place are those at the end of `ids`."""
        most = min(place, len(ids), MOST_ALIKE)
        return next((n for n in range(most) if self.ids[place - 1 - n] != ids[-1 - n]), most)


def draft(own: Trail, past: Trail, most: int) -> list[int]:
    """What may follow the tokens of a row, at most so many: what followed in the row itself, or in rows before it.

    Of two places the one is taken before which more is alike. What repeats is gone on with beyond its end.

    >>> draft(Trail([7, 8, 9, 5, 7, 8]), Trail(), 2), draft(Trail([7, 8, 7, 8]), Trail(), 5)
    ([9, 5], [7, 8, 7, 8, 7])
    >>> draft(Trail([1, 2]), Trail([3, 1, 2, 4]), 3)
    [4]
    """
    found = [(trail.alike(place, own.ids), trail, place) for trail in (own, past) if (place := trail.place(own.ids))]
    if not found or most < 1:
        return []
    _, trail, place = max(found, key=lambda one: one[0])
    guessed = trail.ids[place : place + most]
    period = len(trail.ids) - place
    while trail is own and len(guessed) < most:
        guessed.append(guessed[-period])
    return guessed
