"""Is the merged model the adapted one, and what does rounding it to the saved number format change?

Shapes: B rows, T tokens, V vocabulary. Weights and arithmetic are float32. A model with large logits can differ by
more than the tolerance from itself, computed in another order; so where float32 shows a larger difference, the same
weights are compared in float64 (norms may stay in float32), which rounds by less, and answers may then part at ties
within twice the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lotune.errors import CheckError

TOLERANCE = 1e-4
"""Largest difference of a logit between the merged and the adapted model, and of the two best logits of a tie."""
VERDICT_SHARE = 0.01
"""Largest share of verdicts that rounding may change ..."""
VERDICT_ROWS = 200
"""... where it is measured on this many rows or more."""

Greedy = Callable[[Any, Sequence[Sequence[int]], int], list[list[int]]]
"""(model, prompts, max_new_tokens) -> the token ids of each greedy answer."""
Judge = Callable[[int, Sequence[int]], tuple[str, bool | None]]
"""(row number, answer's token ids) -> its text and whether it is right (None: the key cannot be judged)."""


@dataclass(frozen=True)
class Question:
    """A real row: `tokens` is the prompt with its answer, of which the first `prompt_tokens` are the prompt."""

    tokens: Sequence[int]
    prompt_tokens: int


@dataclass(frozen=True)
class MergeCheck:
    """What the check found.

    `max_logit_difference` is that of float32 arithmetic, `max_logit_difference_float64` that of float64 where the first
    is above the tolerance, else None. `greedy_differences` are answers that differ between merged and adapted, each at
    a tie of the two best logits.
    `texts_changed` and `verdicts_changed` count what rounding to `saved_dtype` changes; `judged` rows with a verdict.
    """

    rows: int
    max_logit_difference: float
    greedy_differences: int
    saved_dtype: str
    texts_changed: int
    verdicts_changed: int
    judged: int
    passed: bool
    max_logit_difference_float64: float | None = None

    @property
    def verdict_share(self) -> float:
        """The share, 0 to 1, of the judged rows whose verdict rounding changes."""
        return self.verdicts_changed / self.judged if self.judged else 0.0


def check_merge(
    adapted: nn.Module,
    merged: nn.Module,
    saved: nn.Module,
    questions: Sequence[Question],
    *,
    saved_dtype: torch.dtype,
    greedy: Greedy,
    judge: Judge,
    max_new_tokens: int,
    batch_tokens: int = 2048,
) -> MergeCheck:
    """Compare, on real rows, merged with adapted, then the saved weights with the merged ones.

    All three models are float32; `saved` is what was written, rounded to `saved_dtype`, read back as float32.
    `passed` is False where rounding changes more than 1 % of the verdicts of 200 judged rows or more.
    Raises: CheckError where merged and adapted give different logits or answers, or the saved weights are not the
    merged ones rounded.
    """
    for name, model in (("adapted", adapted), ("merged", merged), ("saved", saved)):
        _require_comparable(name, model)
    if not questions:
        raise CheckError("merge check", "there are no rows to compare on", "one at least")
    difference, exact = _largest_difference(adapted, merged, questions, batch_tokens), None
    has_float64 = next(adapted.parameters()).device.type != "mps"
    if not difference <= TOLERANCE and has_float64:  # a NaN fails, too
        with _in_float64(adapted, merged):
            exact = _largest_difference(adapted, merged, questions, batch_tokens)
    apart = difference if exact is None else exact
    if not apart <= TOLERANCE:
        found = f"merged and adapted logits differ by {apart:.3g} on {len(questions)} rows"
        raise CheckError("merge check", found, f"at most {TOLERANCE:g}", "merge again; do not use this merged model")
    prompts = [question.tokens[: question.prompt_tokens] for question in questions]
    answers = greedy(merged, prompts, max_new_tokens)
    tie = TOLERANCE if exact is None else 2 * difference
    differences = _compare_answers(adapted, merged, prompts, greedy(adapted, prompts, max_new_tokens), answers, tie)
    _require_rounded(merged, saved, saved_dtype)
    before = [judge(row, answer) for row, answer in enumerate(answers)]
    after = [judge(row, answer) for row, answer in enumerate(greedy(saved, prompts, max_new_tokens))]
    return _record((difference, exact), differences, saved_dtype, before, after)


def _record(
    logits: tuple[float, float | None],
    greedy_differences: int,
    saved_dtype: torch.dtype,
    before: Sequence[tuple[str, bool | None]],
    after: Sequence[tuple[str, bool | None]],
) -> MergeCheck:
    """The record of a merge whose logits and answers agree, from texts and verdicts before and after rounding."""
    pairs = list(zip(before, after, strict=True))
    verdicts = sum(old[1] != new[1] for old, new in pairs)
    judged = sum(verdict is not None for _, verdict in before)
    return MergeCheck(
        rows=len(pairs),
        max_logit_difference=logits[0],
        max_logit_difference_float64=logits[1],
        greedy_differences=greedy_differences,
        saved_dtype=str(saved_dtype).removeprefix("torch."),
        texts_changed=sum(old[0] != new[0] for old, new in pairs),
        verdicts_changed=verdicts,
        judged=judged,
        passed=judged < VERDICT_ROWS or verdicts <= VERDICT_SHARE * judged,
    )


@contextmanager
def _in_float64(*models: nn.Module) -> Iterator[None]:
    """A block in which float32 models compute in float64; their weights are afterwards what they were."""
    try:
        for model in models:
            model.double()
        yield
    finally:
        for model in models:
            model.float()


@torch.inference_mode()
def _largest_difference(first: nn.Module, second: nn.Module, questions: Sequence[Question], batch_tokens: int) -> float:
    """The largest absolute difference of a logit over all tokens of all rows; NaN where there is one."""
    largest = torch.zeros(())
    for rows in _batches([question.tokens for question in questions], batch_tokens):
        input_ids, real = _padded(rows, first)
        gap = (_logits(first, input_ids) - _logits(second, input_ids)).abs().amax(-1)  # (B, T)
        largest = torch.maximum(largest, gap[real].max().cpu())  # maximum and max keep a NaN
    return float(largest)


def _compare_answers(
    adapted: nn.Module,
    merged: nn.Module,
    prompts: Sequence[Sequence[int]],
    adapted_answers: Sequence[Sequence[int]],
    merged_answers: Sequence[Sequence[int]],
    tie: float,
) -> int:
    """The number of answers that differ, all of them at a tie: the two best logits at most `tie` apart in one model.

    Raises: CheckError for one that differs elsewhere.
    """
    count = 0
    for row, (one, other) in enumerate(zip(adapted_answers, merged_answers, strict=True)):
        if list(one) == list(other):
            continue
        count += 1
        place = first_difference(one, other)
        gap = min(_best_two_gap(model, [*prompts[row], *one[:place]]) for model in (adapted, merged))
        if not gap <= tie:
            found = f"row {row}: the answers part at token {place}, where the two best logits are {gap:.3g} apart"
            raise CheckError("merge check", found, f"equal answers, or a tie within {tie:g}", "merge again")
    return count


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The first place where two sequences differ; the shorter's length where it begins the longer.

    >>> first_difference([1, 2, 3], [1, 5]), first_difference([1], [1, 2])
    (1, 1)
    """
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


@torch.inference_mode()
def _best_two_gap(model: nn.Module, tokens: Sequence[int]) -> float:
    input_ids, _ = _padded([tokens], model)
    best = _logits(model, input_ids)[0, -1].topk(2).values
    return float(best[0] - best[1])


def _require_rounded(merged: nn.Module, saved: nn.Module, dtype: torch.dtype) -> None:
    """Refuse saved weights that are not the merged ones, rounded once."""
    written = dict(saved.named_parameters())
    for name, weight in merged.named_parameters():
        if name not in written or not torch.equal(weight.to(dtype).float(), written[name]):
            found = f"{name} is not the merged weight rounded to {str(dtype).removeprefix('torch.')}"
            raise CheckError("merge check", found, "what was merged", "write the merged model again")


def _require_comparable(name: str, model: nn.Module) -> None:
    if model.training:
        raise CheckError("merge check", f"the {name} model is in training mode", "evaluation mode")
    wrong = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if wrong:
        raise CheckError("merge check", f"the {name} model has {wrong.pop()} weights", "float32", "load it as float32")


def _batches(rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[Sequence[int]]]:
    """Rows in batches of neighbouring lengths, of at most `batch_tokens` tokens with padding (one row at least)."""
    batch: list[Sequence[int]] = []
    for row in sorted((row for row in rows if len(row)), key=len):
        if batch and (len(batch) + 1) * len(row) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]], model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T), int64, padded at the end (which a causal model does not see before it), and real places."""
    length = max(map(len, rows))
    device = next(model.parameters()).device
    input_ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)
    real = torch.arange(length, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
    return input_ids, real


def _logits(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, T, V)."""
    logits = model(input_ids=input_ids, use_cache=False).logits
    assert isinstance(logits, torch.Tensor)
    return logits
