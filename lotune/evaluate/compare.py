"""Two sets of predictions on the same items: is one better, or can these items not tell?

Only what was asked and judged alike is compared: task, scorer, template, protocol and each prompt.
Verdicts are compared by McNemar's exact test, scores by a paired permutation test with a bootstrap interval of the
difference. Both are two-sided at 5 %.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import cast

from lotune.errors import DataError
from lotune.evaluate.facts import Facts, differences
from lotune.evaluate.predict import Prediction
from lotune.evaluate.statistics import (
    SIGNIFICANCE,
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    paired_permutation_test,
)
from lotune.evaluate.statistics import wilson as wilson_interval
from lotune.fingerprints import fingerprint

ACCURACY = "accuracy"
"""The figure of verdicts."""
POWER = 0.8
"""How likely the items that it would take are to show a difference as large as the one seen."""


@dataclass(frozen=True)
class Side:
    """The figure of one of the two, 0 to 1 for verdicts and in its own unit for a score, with its 95 % interval.

    An interval of None is not estimable.
    """

    name: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Disagreement:
    """An item on which the two differ: what each answered, and which of them is better there, "A" or "B"."""

    id: str
    kind: str
    key: str
    a: str
    b: str
    better: str


@dataclass(frozen=True)
class Comparison:
    """What the items say: `difference` is B's figure less A's; `required_sample_size` is None where nothing differs.

    `facts` are those of both, and `prompts` is the digest of the prompts of the items that are compared.
    """

    score: str
    n: int
    a: Side
    b: Side
    difference: float
    interval: Interval | None
    b_better_on: int
    a_better_on: int
    p_value: float
    verdict: str
    required_sample_size: int | None
    unmatched: int
    differing: tuple[Disagreement, ...]
    facts: Facts
    prompts: str


def compare_predictions(
    a: Sequence[Prediction], b: Sequence[Prediction], names: tuple[str, str], score: str | None = None
) -> Comparison:
    """Compare predictions on the items that both have and that can be judged.

    `score` names a per-item score, by its own name or the protocol's (contest_f1), or the accuracy of the verdicts;
    without it the metric is that of both, see `metric_of`.
    Raises: DataError where they have no item in common, an item stands twice in one of them, they were asked or judged
    in another way or by other keys, or lack the score.
    """
    facts = _shared_facts(a, b, names)
    pairs, alone = _paired(a, b)
    score = score or metric_of([prediction for pair in pairs for prediction in pair])
    before, after = ([_value(side, score) for side in one] for one in zip(*pairs, strict=True))
    if score == ACCURACY:
        test = mcnemar([bool(value) for value in before], [bool(value) for value in after])
        intervals: list[Interval | None] = [
            wilson_interval(round(sum(values)), len(values)) for values in (before, after)
        ]
    else:
        test = paired_permutation_test(before, after)
        intervals = [bootstrap_mean(values) for values in (before, after)]
    sides = [
        Side(name, sum(values) / len(values), interval)
        for name, values, interval in zip(names, (before, after), intervals, strict=True)
    ]
    difference = sides[1].value - sides[0].value
    return Comparison(
        score=score,
        n=len(pairs),
        a=sides[0],
        b=sides[1],
        difference=difference,
        interval=bootstrap_difference(before, after),
        b_better_on=test.gained,
        a_better_on=test.lost,
        p_value=test.p_value,
        verdict=comparison_verdict(difference, test.p_value),
        required_sample_size=required_sample_size(before, after),
        unmatched=alone,
        differing=tuple(_differing(pairs, before, after)),
        facts=facts,
        prompts=fingerprint([_digest(one.prompt) for one, _ in pairs]),
    )


def metric_of(predictions: Sequence[Prediction]) -> str:
    """The metric that predictions were judged for: the first score that each of them has, else the accuracy."""
    shared = [name for name in predictions[0].score.scores if all(name in one.score.scores for one in predictions)]
    return shared[0] if shared else ACCURACY


def comparison_verdict(difference: float, p_value: float) -> str:
    """The plain sentence.

    >>> comparison_verdict(0.1, 0.01), comparison_verdict(-0.1, 0.01), comparison_verdict(0.1, 0.2)
    ('B is better', 'A is better', 'these items cannot tell')
    """
    if p_value >= SIGNIFICANCE or difference == 0:
        return "these items cannot tell"
    return "B is better" if difference > 0 else "A is better"


def required_sample_size(before: Sequence[float], after: Sequence[float]) -> int | None:
    """How many items would show a difference as large as the one seen, four times in five; None where there is none.

    With d the mean difference and s² that of its squares: (z₁ s + z₂ sqrt(s² − d²))² / d², which for verdicts is
    Connor's formula (1987) for McNemar's test.

    >>> required_sample_size([0, 0, 0, 1] * 25, [1, 1, 0, 0] * 25)
    92
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    mean = sum(changes) / len(changes)
    if abs(mean) < 1e-12:
        return None
    squares = sum(change * change for change in changes) / len(changes)
    normal = NormalDist()
    apart = normal.inv_cdf(1 - SIGNIFICANCE / 2) * sqrt(squares) + normal.inv_cdf(POWER) * sqrt(squares - mean**2)
    return ceil(apart**2 / mean**2)


def _paired(a: Sequence[Prediction], b: Sequence[Prediction]) -> tuple[list[tuple[Prediction, Prediction]], int]:
    """The judgeable items of both, in A's order, and how many only one of them has."""
    others: Mapping[str, Prediction] = {one.example_id: one for one in b}
    both = [(one, others[one.example_id]) for one in a if one.example_id in others]
    _check_prompts(both)
    for one, other in both:
        if one.score.reference != other.score.reference:
            found = f"the key is {one.score.reference!r} in A and {other.score.reference!r} in B"
            raise DataError(f"item {one.example_id}", found, "predictions on the same items, judged alike")
    pairs = [pair for pair in both if None not in (pair[0].score.correct, pair[1].score.correct)]
    if not pairs:
        raise DataError(
            "compare", f"{len(a)} and {len(b)} predictions share no item that can be judged", "the same items"
        )
    return pairs, len(a) + len(b) - 2 * len(both)


def _shared_facts(a: Sequence[Prediction], b: Sequence[Prediction], names: tuple[str, str]) -> Facts:
    """Return how both were asked and judged. Raises: DataError where that is not one way, or an item stands twice."""
    if not a or not b:
        empty = names[0] if not a else names[1]
        raise DataError(empty, "holds no predictions", "a line for each item")
    first, second = _facts_of(a, names[0]), _facts_of(b, names[1])
    if different := differences(first, second):
        remedy = "ask or judge one of them again with the settings of the other"
        raise DataError("compare", "; ".join(different), "answers that were asked and judged alike", remedy)
    return first


def _facts_of(side: Sequence[Prediction], name: str) -> Facts:
    repeated = [id for id, times in Counter(one.example_id for one in side).items() if times > 1]
    if repeated:
        found = f"{len(repeated)} ids stand more than once, the first is {repeated[0]}"
        raise DataError(name, found, "one line for each item", "delete the lines that should not count")
    facts = side[0].facts
    for one in side:
        if facts is None or one.facts is None:
            found = f"item {one.example_id} does not say by which task, scorer, template and protocol"
            raise DataError(name, found, "predictions of this version of lotune", "evaluate the model again")
        items = f"item {side[0].example_id}", f"item {one.example_id}"
        if different := differences(facts, one.facts, items):
            raise DataError(name, "; ".join(different), "one way of asking and judging", "evaluate all its rows again")
    return cast(Facts, facts)


def _check_prompts(pairs: Sequence[tuple[Prediction, Prediction]]) -> None:
    other = [(one, its) for one, its in pairs if one.prompt != its.prompt]
    if other:
        one, its = other[0]
        digests = f"sha256 {_digest(one.prompt)[:12]} in A, {_digest(its.prompt)[:12]} in B"
        found = f"{len(other)} of {len(pairs)} items have another prompt in B than in A, the first is {one.example_id}"
        raise DataError("compare", f"{found} ({digests})", "the same questions in the same words")


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _value(prediction: Prediction, score: str) -> float:
    if score == ACCURACY:
        return float(bool(prediction.score.correct))
    scores = prediction.score.scores
    if score not in scores:
        there = ", ".join((*scores, ACCURACY))
        raise DataError(f"item {prediction.example_id}", f"has no score {score} (it has {there})")
    return float(scores[score])


def _differing(
    pairs: Sequence[tuple[Prediction, Prediction]], before: Sequence[float], after: Sequence[float]
) -> list[Disagreement]:
    return [
        Disagreement(
            one.example_id, one.category, one.score.reference or "", one.text, other.text, "B" if new > old else "A"
        )
        for (one, other), old, new in zip(pairs, before, after, strict=True)
        if new != old
    ]
