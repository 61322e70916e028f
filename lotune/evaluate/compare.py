"""A significance test of two sets of predictions on the same items.

Both sets must have the same task, scorer, template, protocol and prompts. Verdicts are compared by McNemar's exact
test, scores by a paired permutation test with a bootstrap interval of the difference. Both tests are two-sided at 5 %.
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
    PairedTest,
    bootstrap_weighted_mean,
    mcnemar,
    paired_permutation_test,
    weighted_mean,
)
from lotune.evaluate.statistics import wilson as wilson_interval
from lotune.fingerprints import fingerprint
from lotune.tasks.metrics import LOWER_IS_BETTER, goodness, weights_of

ACCURACY = "accuracy"
"""The metric of verdicts."""
POWER = 0.8
"""Power of the test with the required sample size."""


@dataclass(frozen=True)
class Side:
    """The metric of one set, 0 to 1 for verdicts, otherwise in the unit of the score, with its 95 % interval.

    The interval is None if it cannot be estimated.
    """

    name: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Disagreement:
    """An item on which the two sets differ: both answers, and which one is better, "A" or "B"."""

    id: str
    kind: str
    key: str
    a: str
    b: str
    better: str


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison: `difference` is B minus A; `required_sample_size` is None without a difference.

    `facts` are those of both sets, and `prompts` is the digest of the compared prompts.
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
    lower_is_better: bool = False


def compare_predictions(
    a: Sequence[Prediction], b: Sequence[Prediction], names: tuple[str, str], score: str | None = None
) -> Comparison:
    """Compare predictions on the judgeable items that both sets have.

    `score` names a per-item score, such as contest_f1, or the accuracy; by default it is the metric of `metric_of`.
    Raises: DataError if the sets have no item in common, an item occurs twice in one of them, they differ in facts,
    prompts or references, or lack the score.
    """
    facts = _shared_facts(a, b, names)
    pairs, unmatched = _paired(a, b)
    score = score or metric_of([prediction for pair in pairs for prediction in pair])
    before, after = ([_value(prediction, score) for prediction in side] for side in zip(*pairs, strict=True))
    weights = weights_of([first.score.scores for first, _ in pairs], score) or [1.0] * len(pairs)
    test = _paired_test(score, before, after, weights)
    first, second = (
        Side(name, weighted_mean(values, weights), _interval(score, values, weights))
        for name, values in zip(names, (before, after), strict=True)
    )
    difference = second.value - first.value
    changes = [new - old for old, new in zip(before, after, strict=True)]
    # Scaled by their weights, values have the weighted mean as their plain mean.
    relative = [weight * len(weights) / sum(weights) for weight in weights]
    return Comparison(
        score=score,
        n=len(pairs),
        a=first,
        b=second,
        difference=difference,
        interval=bootstrap_weighted_mean(changes, weights),
        b_better_on=test.gained,
        a_better_on=test.lost,
        p_value=test.p_value,
        verdict=comparison_verdict(goodness(score, difference), test.p_value),
        required_sample_size=required_sample_size(_scaled(before, relative), _scaled(after, relative)),
        unmatched=unmatched,
        differing=tuple(_differing(pairs, score)),
        facts=facts,
        prompts=fingerprint([_digest(first.prompt) for first, _ in pairs]),
        lower_is_better=score in LOWER_IS_BETTER,
    )


def _paired_test(score: str, before: Sequence[float], after: Sequence[float], weights: Sequence[float]) -> PairedTest:
    # McNemar's test looks at the changed verdicts alone; graded scores need the size of each change, too.
    if score == ACCURACY:
        return mcnemar([bool(value) for value in before], [bool(value) for value in after])
    first, second = ([goodness(score, value) for value in _scaled(side, weights)] for side in (before, after))
    return paired_permutation_test(first, second)


def _scaled(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    return [weight * value for weight, value in zip(weights, values, strict=True)]


def _interval(score: str, values: Sequence[float], weights: Sequence[float]) -> Interval | None:
    return (
        wilson_interval(round(sum(values)), len(values))
        if score == ACCURACY
        else bootstrap_weighted_mean(values, weights)
    )


def metric_of(predictions: Sequence[Prediction]) -> str:
    """Return the metric of predictions: the first score that each of them has, otherwise the accuracy."""
    names = predictions[0].score.scores
    shared = [name for name in names if all(name in prediction.score.scores for prediction in predictions)]
    return shared[0] if shared else ACCURACY


def comparison_verdict(difference: float, p_value: float) -> str:
    """Return the verdict in words; a difference above 0 is in favour of B.

    >>> comparison_verdict(0.1, 0.01), comparison_verdict(-0.1, 0.01), comparison_verdict(0.1, 0.2)
    ('B is better', 'A is better', 'these items cannot tell')
    """
    if p_value >= SIGNIFICANCE or difference == 0:
        return "these items cannot tell"
    return "B is better" if difference > 0 else "A is better"


def required_sample_size(before: Sequence[float], after: Sequence[float]) -> int | None:
    """Return the number of items that shows this difference with a power of 80 %; None without a difference.

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
    distance = normal.inv_cdf(1 - SIGNIFICANCE / 2) * sqrt(squares) + normal.inv_cdf(POWER) * sqrt(squares - mean**2)
    return ceil(distance**2 / mean**2)


def _paired(a: Sequence[Prediction], b: Sequence[Prediction]) -> tuple[list[tuple[Prediction, Prediction]], int]:
    """Return the judgeable items of both sets, in A's order, and the number of items that only one set has."""
    # By id, not by line: predictions are written in order of completion, which differs between models.
    in_b: Mapping[str, Prediction] = {prediction.example_id: prediction for prediction in b}
    common = [(first, in_b[first.example_id]) for first in a if first.example_id in in_b]
    _check_prompts(common)
    for first, second in common:
        if first.score.reference != second.score.reference:
            references = f"the key is {first.score.reference!r} in A and {second.score.reference!r} in B"
            raise DataError(f"item {first.example_id}", references, "predictions on the same items, judged alike")
    pairs = [pair for pair in common if None not in (pair[0].score.correct, pair[1].score.correct)]
    if not pairs:
        raise DataError(
            "compare", f"{len(a)} and {len(b)} predictions share no item that can be judged", "the same items"
        )
    return pairs, len(a) + len(b) - 2 * len(common)


def _shared_facts(a: Sequence[Prediction], b: Sequence[Prediction], names: tuple[str, str]) -> Facts:
    """Return the common facts. Raises: DataError if the sets differ in them, or an item occurs twice."""
    if not a or not b:
        empty = names[0] if not a else names[1]
        raise DataError(empty, "holds no predictions", "one line per item")
    first, second = _facts_of(a, names[0]), _facts_of(b, names[1])
    if different := differences(first, second):
        remedy = "ask or judge one of them again with the settings of the other"
        raise DataError("compare", "; ".join(different), "answers that were asked and judged alike", remedy)
    return first


def _facts_of(side: Sequence[Prediction], name: str) -> Facts:
    repeated = [id for id, count in Counter(prediction.example_id for prediction in side).items() if count > 1]
    if repeated:
        fault = f"{len(repeated)} ids occur more than once, the first is {repeated[0]}"
        raise DataError(name, fault, "one line per item", "delete the lines that should not count")
    facts = side[0].facts
    for prediction in side:
        if facts is None or prediction.facts is None:
            fault = f"item {prediction.example_id} lacks task, scorer, template or protocol"
            raise DataError(name, fault, "predictions of this version of lotune", "evaluate the model again")
        items = f"item {side[0].example_id}", f"item {prediction.example_id}"
        if different := differences(facts, prediction.facts, items):
            raise DataError(name, "; ".join(different), "one way of asking and judging", "evaluate all its rows again")
    return cast(Facts, facts)


def _check_prompts(pairs: Sequence[tuple[Prediction, Prediction]]) -> None:
    changed = [(first, second) for first, second in pairs if first.prompt != second.prompt]
    if changed:
        first, second = changed[0]
        digests = f"sha256 {_digest(first.prompt)[:12]} in A, {_digest(second.prompt)[:12]} in B"
        fault = (
            f"{len(changed)} of {len(pairs)} items have different prompts in A and B, the first is {first.example_id}"
        )
        raise DataError("compare", f"{fault} ({digests})", "the same prompts")


def _digest(prompt: str) -> str:
    # Data files may hold lone surrogates, which strict UTF-8 refuses.
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _value(prediction: Prediction, score: str) -> float:
    if score == ACCURACY:
        return float(bool(prediction.score.correct))
    scores = prediction.score.scores
    if score not in scores:
        names = ", ".join((*scores, ACCURACY))
        raise DataError(f"item {prediction.example_id}", f"has no score {score} (it has {names})")
    return float(scores[score])


def _differing(pairs: Sequence[tuple[Prediction, Prediction]], score: str) -> list[Disagreement]:
    return [
        Disagreement(
            first.example_id,
            first.category,
            first.score.reference or "",
            first.text,
            second.text,
            "B" if goodness(score, _value(second, score)) > goodness(score, _value(first, score)) else "A",
        )
        for first, second in pairs
        if _value(first, score) != _value(second, score)
    ]
