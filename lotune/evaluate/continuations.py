"""Continuations of held-out articles by a pre-trained model, and the figures of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lotune.evaluate.statistics import bootstrap_mean


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after the first sentence of a held-out article, and how the article goes on.

    Both have at most the same number of tokens. `rouge_l` is 0 to 100, `repeated` the fraction of 4-grams of tokens
    that the continuation had before.
    """

    id: str
    prompt: str
    reference: str
    text: str
    rouge_l: float
    repeated: float


def continuation_figures(continuations: Sequence[Continuation]) -> dict[str, Any]:
    """Return mean ROUGE-L with its interval, and the mean fraction of repeated 4-grams; empty without any.

    >>> continuation_figures([Continuation("1", "A.", "B.", "B.", 100.0, 0.0)])["rouge_l"]
    100.0
    """
    if not continuations:
        return {}
    scores = [one.rouge_l for one in continuations]
    mean, repeated = (sum(values) / len(values) for values in (scores, [one.repeated for one in continuations]))
    interval = bootstrap_mean(scores)
    limits = None if interval is None else [interval.low, interval.high]
    return {"rows": len(scores), "rouge_l": mean, "rouge_l_interval": limits, "repeated_4_grams": repeated}
