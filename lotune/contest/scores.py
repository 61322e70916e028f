"""The contest's score formulas and the 20 published rows of phase 1 (2024 Ascend AI Innovation Contest, MindSpore)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lotune.errors import SettingsError
from lotune.evaluate.scorecard import ContestScore


def phase1(ratio: float, accuracy: float) -> float:
    """Return (1 - ratio) * 0.3 + accuracy * 0.7; ratio and accuracy are 0 to 1.

    >>> round(phase1(0.000424393, 0.64), 9)
    0.747872682
    """
    return (1 - ratio) * 0.3 + accuracy * 0.7


def phase2(ratio: float, accuracy: float) -> float:
    """Return (1 - 10 ratio) * 0.3 + accuracy * 0.7; ratio and accuracy are 0 to 1.

    >>> round(phase2(4_194_304 / 7_321_000_000, 0.993), 6)
    0.993381
    """
    # Ten times the weight of phase 1 on the ratio: 0.1 % more parameters cost as much as 0.43 % of accuracy.
    return (1 - 10 * ratio) * 0.3 + accuracy * 0.7


SCORE_RULES: dict[str, Callable[[float, float], float]] = {"phase1": phase1, "phase2": phase2}
"""(ratio, accuracy) -> score, by name."""


class PublishedRow(NamedTuple):
    """A row of the contest's published table: accuracy and ratio are 0 to 1."""

    accuracy: float
    ratio: float
    score: float


# The scores are copied, not computed: the tests check that `phase1` gives each of them to 1e-8.
PUBLISHED = (
    PublishedRow(0.7161, 0.00679028, 0.799232916),
    PublishedRow(0.7059, 0.00169757, 0.793620729),
    PublishedRow(0.6400, 0.000424393, 0.747872682),
    PublishedRow(0.6154, 0.000424393, 0.730652682),
    PublishedRow(0.5138, 0.000424393, 0.659532682),
    PublishedRow(0.4820, 0.000424393, 0.637272682),
    PublishedRow(0.4554, 0.000848785, 0.618525364),
    PublishedRow(0.4156, 0.000424393, 0.590792682),
    PublishedRow(0.3644, 0.000424393, 0.554952682),
    PublishedRow(0.3356, 0.000424393, 0.534792682),
    PublishedRow(0.3205, 0.000424393, 0.524222682),
    PublishedRow(0.3010, 0.000636589, 0.510509023),
    PublishedRow(0.3004, 0.000424393, 0.510152682),
    PublishedRow(0.2987, 0.000424393, 0.508962682),
    PublishedRow(0.2774, 0.000212196, 0.494116341),
    PublishedRow(0.2755, 0.000424393, 0.492722682),
    PublishedRow(0.2600, 0.000424393, 0.481872682),
    PublishedRow(0.2564, 0.000685557, 0.479274333),
    PublishedRow(0.2355, 0.000424393, 0.464722682),
    PublishedRow(0.2240, 0.000424393, 0.456672682),
)
"""Phase 1, best first; measured on Llama-3-8B and the contest's own test set, so a rank among them is no ranking."""


def contest_score(rule: str, value: float, base_total: str, *, is_contest_task: bool) -> ContestScore:
    """Return a score with its rank, if it can be compared with the published rows.

    Their rule is phase1, and their ratios divide by one of the contest's totals.

    >>> contest_score("phase1", 0.75, "llama3-8b", is_contest_task=True)
    ContestScore(rule='phase1', value=0.75, rank=3, published=20)
    >>> contest_score("phase1", 0.75, "measured", is_contest_task=True).rank
    """
    # Phase 2 had another task and another formula, and a ratio by the base's own total is not the contest's.
    if rule != "phase1" or base_total == "measured" or not is_contest_task:
        return ContestScore(rule=rule, value=value)
    return ContestScore(rule=rule, value=value, rank=published_rank(value), published=len(PUBLISHED))


def check_rule(rule: str, where: str) -> None:
    """Raise SettingsError, for the setting or option `where`, unless there is a rule of that name."""
    if rule not in SCORE_RULES:
        raise SettingsError(where, f"{rule!r} is not known", f"one of {', '.join(SCORE_RULES)}")


def score(rule: str, ratio: float, accuracy: float) -> float:
    """Return the score by a named rule, from fractions 0 to 1.

    Raises: SettingsError for an unknown rule.

    >>> round(score("phase1", 0.00679028, 0.7161), 9)
    0.799232916
    """
    check_rule(rule, "score.rule")
    return SCORE_RULES[rule](ratio, accuracy)


def published_rank(score: float) -> int:
    """Return the rank, 1 to 21, of a phase 1 score among the 20 published rows; equal scores share a rank.

    >>> published_rank(0.8), published_rank(0.75), published_rank(0.747872682), published_rank(0.1)
    (1, 3, 3, 21)
    """
    return 1 + sum(row.score > score for row in PUBLISHED)
