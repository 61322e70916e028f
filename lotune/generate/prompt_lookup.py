"""Prompt-lookup decoding: drafts of the next tokens, copied from earlier text, which answers often repeat.

A pass over a few tokens of one row takes little longer than a pass over one token, as it reads the weights once. The
tokens that followed the same tokens before are read along as a draft, and the model's own choice is taken at each
position. So a draft changes the speed but not the answer (prompt lookup; speculative decoding, Leviathan et al. 2023).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

MAX_CANDIDATES = 8
"""Number of latest occurrences of a token to compare."""
MAX_MATCH = 16
"""Maximum number of tokens to compare before two positions."""
DEFAULT_DRAFT_LENGTH, MAX_DRAFT_LENGTH = 8, 31
"""Length of a draft after one that was accepted in part, and the maximum length of any draft."""
COOLDOWN = 8
"""Number of tokens without a draft after several drafts were rejected."""
MAX_HISTORY = 8192
"""Maximum number of tokens of ended answers to look up; beyond it, the history starts again."""


class NgramIndex:
    """Token ids in order, and for each id the positions after its latest occurrences."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._next_positions: dict[int, deque[int]] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens at the end. The last one has no successor yet, so it is not looked up."""
        for id in ids:
            if self.ids:
                self._next_positions.setdefault(self.ids[-1], deque(maxlen=MAX_CANDIDATES)).append(len(self.ids))
            self.ids.append(id)

    def look_up(self, ids: Sequence[int]) -> tuple[int, int]:
        """Return (tokens alike, position) of the position with the longest match before it to the end of `ids`.

        Of several equally long matches the last one counts; without a match both numbers are 0.

        >>> NgramIndex([5, 6, 1, 9, 6, 2]).look_up([5, 6]), NgramIndex([5, 6]).look_up([6])
        ((2, 2), (0, 0))
        """
        positions = reversed(self._next_positions.get(ids[-1], ())) if ids else ()
        matches = ((self._match_length(position, ids), position) for position in positions)
        return max(matches, key=lambda match: match[0], default=(0, 0))  # max takes the first, which is the latest

    def _match_length(self, position: int, ids: Sequence[int]) -> int:
        """Return how many tokens before a position equal the end of `ids`; the caller has compared the last one."""
        longest = min(position, len(ids), MAX_MATCH)
        return next((n for n in range(1, longest) if self.ids[position - 1 - n] != ids[-1 - n]), longest)


def propose_draft(own: NgramIndex, past: NgramIndex, max_length: int) -> list[int]:
    """Return at most `max_length` tokens that may follow a row: those after the longest match in it or in past rows.

    Of two matches of one length the row's own counts. A match in the row itself repeats beyond the end of the row.

    >>> propose_draft(NgramIndex([7, 8, 9, 5, 7, 8]), NgramIndex(), 2)
    [9, 5]
    >>> propose_draft(NgramIndex([7, 8, 7, 8]), NgramIndex(), 5)
    [7, 8, 7, 8, 7]
    >>> propose_draft(NgramIndex([1, 2]), NgramIndex([3, 1, 2, 4]), 3)
    [4]
    """
    matches = [(*index.look_up(own.ids), index) for index in (own, past)]
    # of equal matches max takes the first, the row's own, as a row most likely continues its current copy
    match_length, position, index = max(matches, key=lambda match: match[0])
    if not match_length or max_length < 1:
        return []
    draft = index.ids[position : position + max_length]
    period = len(index.ids) - position  # the distance at which the row repeats itself
    while index is own and len(draft) < max_length:
        draft.append(draft[-period])
    return draft
