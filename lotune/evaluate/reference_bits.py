"""Bits per byte of reference answers: how likely a model finds the answer that a row gives, after the row's prompt.

The bits are -log2 of the probability of the reference's tokens, the bytes those of its text in UTF-8. The end-of-text
token is not counted, as it has no byte: a model that merely learns to stop does not find an answer more likely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lotune.data.examples import Example
from lotune.data.tokenized import encode_target
from lotune.tasks.metrics import BITS_PER_BYTE, WEIGHTS
from lotune.tasks.task import Score

if TYPE_CHECKING:
    from lotune.generate.answering_model import AnsweringModel

REFERENCE_ONLY = "likelihood:reference"
"""The `finish_reason` of a prediction without a generated answer, whose reference alone was scored."""
_REFERENCE_BYTES = WEIGHTS[BITS_PER_BYTE]


def reference_scores(
    rows: Sequence[tuple[Example, Sequence[int]]], answering: AnsweringModel, batch_tokens: int
) -> list[dict[str, float]]:
    """Return the bits per byte and the bytes of each row's reference, after the token ids of its prompt.

    The scores of a row without a reference are empty.
    """
    from lotune.generate.loglikelihood import Continuation

    known = [index for index, (example, _) in enumerate(rows) if has_reference(example)]
    continuations = [
        Continuation(tuple(prompt), tuple(encode_target(answering.tokenizer, example)), f"row {example.id}")
        for example, prompt in (rows[index] for index in known)
    ]
    scores: list[dict[str, float]] = [{} for _ in rows]
    for index, values in zip(
        known, answering.loglikelihood.score(continuations, batch_tokens=batch_tokens), strict=True
    ):
        num_bytes = len(rows[index][0].target.encode("utf-8", "surrogatepass"))
        bits = -math.fsum(values) / math.log(2)
        scores[index] = {BITS_PER_BYTE: bits / num_bytes, _REFERENCE_BYTES: float(num_bytes)}
    return scores


def has_reference(example: Example) -> bool:
    """Return whether a row has a reference answer to score."""
    return bool(example.references) and bool(example.target.strip())


def with_reference_scores(score: Score, reference: Mapping[str, float]) -> Score:
    """Return the score of a generated answer with that of its reference, which comes first as the main one."""
    return replace(score, scores={**reference, **score.scores})


def stored_reference_scores(example: Example, stored: Score) -> dict[str, float] | None:
    """Return the scores of the example's reference in a stored prediction; None if they are of another reference."""
    if not has_reference(example):
        return {}
    names = (BITS_PER_BYTE, _REFERENCE_BYTES)
    if stored.reference != example.references[0] or not all(name in stored.scores for name in names):
        return None
    return {name: stored.scores[name] for name in names}
