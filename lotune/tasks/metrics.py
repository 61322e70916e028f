"""Metrics over the scores of a test set: pure functions that the `metrics` of any task may combine.

A score whose `correct` is None has no usable reference; every metric leaves it out. LOWER_IS_BETTER and WEIGHTS are the
only places that tell one metric from the next: whatever ranks, tests or averages values asks them by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt

from lotune.errors import DataError
from lotune.tasks.task import Score

BITS_PER_BYTE = "bits_per_byte"
"""Name of the score, and of the metric, of the likelihood of references."""
LOWER_IS_BETTER = frozenset({BITS_PER_BYTE})
"""Metrics of which a lower value is better."""
# Per byte of all references together, as perplexities are: a mean over rows would let one-word answers decide.
WEIGHTS: Mapping[str, str] = {BITS_PER_BYTE: "reference_bytes"}
"""Per-example scores whose mean is weighted, each with the score that holds the weight of the example."""


def goodness(metric: str, value: float) -> float:
    """Return a number that is greater the better the value of the metric is.

    >>> goodness("accuracy", 0.5), goodness("bits_per_byte", 1.5)
    (0.5, -1.5)
    """
    return -value if metric in LOWER_IS_BETTER else value


def accuracy(judged: Sequence[Score]) -> float:
    """Return the fraction, 0 to 1, of correct answers among those that can be scored.

    Raises: DataError if no answer can be scored.

    >>> accuracy([Score("3", "3", True), Score("4", "3", False), Score(None, "yes", None)])
    0.5
    """
    verdicts = [score.correct for score in judged if score.correct is not None]
    if not verdicts:
        raise DataError("evaluation", f"none of {len(judged)} rows has a reference that can be scored")
    return sum(verdicts) / len(verdicts)


def num_without_reference(judged: Sequence[Score]) -> int:
    """Return the number of rows without a reference that can be scored; the accuracy leaves them out.

    >>> num_without_reference([Score(None, "yes", None), Score("3", "3", True)])
    1
    """
    return sum(score.correct is None for score in judged)


def mean_score(judged: Sequence[Score], name: str) -> float:
    """Return the mean of a per-example score over the rows that can be scored, in the unit of that score.

    A score in WEIGHTS is weighted. Raises: DataError if no row can be scored, or if a row lacks the score.

    >>> mean_score([Score("a", "a", True, {"f1": 100.0}), Score("b", "a", False, {"f1": 0.0})], "f1")
    50.0
    >>> rows = [{"bits_per_byte": 1.0, "reference_bytes": 30.0}, {"bits_per_byte": 5.0, "reference_bytes": 10.0}]
    >>> mean_score([Score("a", "a", True, row) for row in rows], "bits_per_byte")
    2.0
    """
    scores = [score.scores.get(name) for score in judged if score.correct is not None]
    values = [value for value in scores if value is not None]
    if len(values) < len(scores):
        raise DataError("evaluation", f"{len(scores) - len(values)} of {len(scores)} answers have no score {name}")
    if not values:
        raise DataError("evaluation", f"none of {len(judged)} rows has a reference that can be scored")
    weights = weights_of([score.scores for score in judged if score.correct is not None], name)
    if weights is None:
        return sum(values) / len(values)
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def weights_of(rows: Sequence[Mapping[str, float]], name: str) -> list[float] | None:
    """Return the weights of the per-example scores of this name, or None if all examples count the same."""
    return [row[WEIGHTS[name]] for row in rows] if name in WEIGHTS else None


def balanced_accuracy(judged: Sequence[Score]) -> float:
    """Return the mean recall of all labels, 0 to 1; an answer that names no label is wrong.

    >>> balanced_accuracy([Score("1", "1", True), Score("1", "1", True), Score("1", "0", False)])
    0.5
    """
    correct, total = _count_by_reference(judged)
    return sum(correct[label] / count for label, count in total.items()) / len(total)


def f1(judged: Sequence[Score], positive: str) -> float:
    """Return F1 of one label, 0 to 1: the harmonic mean of precision and recall.

    It is 0 if the label is neither a reference nor an answer.

    >>> f1([Score("1", "1", True), Score("1", "0", False), Score("0", "1", False)], "1")
    0.5
    """
    pairs = [(score.extracted, score.reference) for score in judged if score.correct is not None]
    true_positives = sum(extracted == reference == positive for extracted, reference in pairs)
    # 2TP + FP + FN: predicted positives plus actual ones
    positives = sum((extracted == positive) + (reference == positive) for extracted, reference in pairs)
    return 2 * true_positives / positives if positives else 0.0


def matthews(judged: Sequence[Score]) -> float:
    """Return Matthews' correlation of references and answers, -1 to 1, for any number of labels (Gorodkin, 2004).

    An answer that names no label counts as a label of its own. The value is 0 if all references or all answers are
    alike.

    >>> round(matthews([Score("1", "1", True), Score("1", "0", False), Score("0", "0", True)]), 4)
    0.5
    """
    pairs = [(score.extracted, score.reference) for score in judged if score.correct is not None]
    actual, predicted = Counter(reference for _, reference in pairs), Counter(extracted for extracted, _ in pairs)
    correct, total = sum(extracted == reference for extracted, reference in pairs), len(pairs)
    # R_K of Gorodkin: the covariance of the confusion matrix over the root of both variances, all times total²
    expected = sum(count * predicted[label] for label, count in actual.items())
    variances = (total**2 - sum(n * n for n in actual.values())) * (total**2 - sum(n * n for n in predicted.values()))
    return (correct * total - expected) / sqrt(variances) if variances else 0.0


def rouge_l(answer: Sequence[str], reference: Sequence[str], beta: float = 1.0) -> float:
    """Return ROUGE-L of two token sequences, 0 to 1: the F-score of their longest common subsequence (Lin, 2004).

    F = (1 + β²)RP / (R + β²P). R is its length over that of the reference, P over that of the answer. F is 0 if
    either is empty.

    >>> rouge_l("羊侃的字是公祖。", "羊侃的字是祖忻。")
    0.875
    """
    common = longest_common_subsequence(answer, reference)
    if not common:
        return 0.0
    recall, precision = common / len(reference), common / len(answer)
    return (1 + beta**2) * recall * precision / (recall + beta**2 * precision)


def repeated_ngrams(tokens: Sequence[object], n: int) -> float:
    """Return the fraction, 0 to 1, of the n-grams of a sequence that it had before; 0 if it is too short for any.

    >>> repeated_ngrams("abcabc", 2), repeated_ngrams("abcd", 2)
    (0.4, 0.0)
    """
    ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence; its elements need not be adjacent.

    >>> longest_common_subsequence("abcbdab", "bdcaba")
    4
    """
    # Two rows of the dynamic programme are enough, as only the length is returned.
    previous = [0] * (len(second) + 1)
    for a in first:
        lengths = [0]
        for column, b in enumerate(second):
            lengths.append(previous[column] + 1 if a == b else max(previous[column + 1], lengths[column]))
        previous = lengths
    return previous[-1]


def _count_by_reference(judged: Sequence[Score]) -> tuple[Counter[str], Counter[str]]:
    """Return correct answers and all answers by reference. Raises: DataError if none can be scored."""
    scored = [score for score in judged if score.correct is not None]
    if not scored:
        raise DataError("evaluation", f"none of {len(judged)} rows has a reference that can be scored")
    return Counter(score.reference for score in scored if score.correct), Counter(score.reference for score in scored)
