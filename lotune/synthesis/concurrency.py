"""How many requests may be under way at once: as many as the server takes, found from its refusals.

It begins with one and adds one for each answer, as TCP's slow start does. Single refusals change nothing; if more than
a tenth of the last answers are refusals, the limit falls to the number that the server has been answering at once. From
then on it rises by one now and then, each time later if that is refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate

WINDOW = 100
"""Number of last answers that are looked at."""
MAX_SHARE = 0.1
"""Share of refusals above which the limit falls."""
START_WINDOW, MAX_START_SHARE = 20, 0.2
"""The same at the beginning, while the limit grows fast."""
HELD = 10
"""Answers for which it does not grow after a refusal."""
FIRST_PROBE = 300
"""Good answers after which the limit rises by one, at first."""
PROBE_REFUSALS = 2
"""Refusals soon after such a rise that take it back; a single one is chance."""


@dataclass
class Concurrency:
    """The limit on requests under way, between 1 and `most`."""

    most: int
    limit: int = 1
    _starting: bool = True
    _outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _good: deque[tuple[float, float]] = field(init=False)
    _interval: int = FIRST_PROBE
    _since: int = 0
    _held: int = 0
    _probing: int = 0
    _probe_refusals: int = 0
    _epoch: float = 0.0

    def __post_init__(self) -> None:
        self._good = deque(maxlen=2 * self.most)  # so many that all of one moment are among them

    def answered(self, started: float, ended: float) -> None:
        """Count a request that the server answered, from and to seconds of one clock."""
        self._outcomes.append(False)
        self._good.append((started, ended))
        if self._starting:
            self._held = max(0, self._held - 1)
            self.limit = min(self.most, self.limit + (not self._held))
            self._starting = self.limit < self.most
            return
        self._since += 1
        if self._probing:
            self._probing -= 1
            if not self._probing and self._probe_refusals:  # perhaps by chance: tried again
                self.limit -= 1
            elif not self._probing:  # the server takes one more
                self._interval = max(FIRST_PROBE, self._interval // 2)
        elif self._since >= self._interval and self.limit < self.most:
            self.limit, self._since = self.limit + 1, 0
            self._probing, self._probe_refusals = 4 * self.limit, 0

    def refused(self, started: float, ended: float) -> None:
        """Count a request that the server refused as too many, or left unanswered."""
        if started < self._epoch:  # sent under an earlier limit
            return
        self._outcomes.append(True)
        self._probe_refusals += 1
        if self._probing and self._probe_refusals >= PROBE_REFUSALS:
            self.limit, self._probing, self._since = max(1, self.limit - 1), 0, 0
            self._interval *= 2
        self._held = HELD
        last = list(self._outcomes)[-START_WINDOW:]
        if sum(self._outcomes) > MAX_SHARE * WINDOW or (self._starting and sum(last) > MAX_START_SHARE * START_WINDOW):
            self._fall(ended)

    def _fall(self, now: float) -> None:
        moments = sorted([*((start, 1) for start, _ in self._good), *((end, -1) for _, end in self._good)])
        taken = max(accumulate(change for _, change in moments), default=self.limit // 2)
        self.limit = max(1, min(taken, self.limit - 1))
        self._starting, self._probing, self._since, self._epoch = False, 0, 0, now
        self._outcomes.clear()
