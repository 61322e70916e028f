"""What answers are worth that read no question: chance, and always the most frequent answer of the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lotune.data.examples import Example
from lotune.tasks.task import Task


class MajorityAnswer(NamedTuple):
    """The most frequent reference of the training rows, and how many of them have it."""

    answer: str
    rows: int
    of: int


def majority_answer(task: Task, train: Iterable[Example]) -> MajorityAnswer | None:
    """Return the most frequent reference (the first in the alphabet, if tied); None if the answers are free texts."""
    # Copies of a row, with its options in another order, say nothing about how frequent an answer is.
    originals = (example for example in train if not example.augmented_from and example.references)
    counts = Counter(example.references[0] for example in originals if task.num_options(example) is not None)
    if not counts:
        return None
    answer, rows = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return MajorityAnswer(answer, rows, counts.total())


def chance(task: Task, examples: Sequence[Example]) -> float | None:
    """Return the accuracy, 0 to 1, of guessing one of each row's options; None if the answers are free texts."""
    options = [task.num_options(example) for example in examples if example.references]
    known = [number for number in options if number is not None]
    return sum(1 / number for number in known) / len(known) if known and len(known) == len(options) else None
