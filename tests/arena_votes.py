"""Simulated votes for tests: strengths, ties and style are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from lotune.arena.ratings import Votes
from lotune.arena.store import Vote

Random = np.random.Generator


def strengths_of(models: int, generator: Random) -> Any:
    values = generator.normal(size=models)
    return values - values.mean()


def scores(logits: Any, generator: Random, ties: float = 0.3) -> Any:
    """Return 1, 0.5 or 0 with the logistic function of the logits as mean; `ties` of the battles of equals are tied."""
    expected = 1 / (1 + np.exp(-logits))
    tie = ties * 4 * expected * (1 - expected)
    drawn = generator.random(len(logits))
    return np.where(drawn < expected - tie / 2, 1.0, np.where(drawn < expected + tie / 2, 0.5, 0.0))


def simulated(strengths: Any, count: int, generator: Random, effects: Any = None) -> Votes:
    """Return votes between pairs drawn at random; with `effects` (K,), of answers that differ in style."""
    models = len(strengths)
    first = generator.integers(0, models, count)
    second = (first + generator.integers(1, models, count)) % models
    style = np.zeros((count, 0)) if effects is None else generator.normal(size=(count, len(effects)))
    logits = strengths[first] - strengths[second] + (0 if effects is None else style @ effects)
    return Votes(models, first, second, scores(logits, generator), style)


def vote(number: int, **changes: Any) -> Vote:
    """Return a vote of a small arena."""
    fields: dict[str, Any] = {
        "battle": f"battle-{number}", "time": float(number), "visitor": f"visitor-{number % 7}", "model_a": "base",
        "model_b": "tuned", "verdict": "model_b", "turns": ((f"What is {number} + 1?", "41", f"{number + 1}"),),
    }  # fmt: skip
    return Vote(**{**fields, **changes})
