"""Check that the merged model computes what base plus adapter compute, and measure the effect of the saved dtype.

Weights and arithmetic are float32. If logits are large, a model computed in another order differs from itself by more
than the tolerance. Rows with a larger difference are therefore compared again in float64, which rounds less. Answers
may then differ at ties within twice the float32 difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from lotune.errors import CheckError
from lotune.evaluate.logit_comparison import (
    BATCH_TOKENS,
    OnDevice,
    best_two_gap,
    in_float64,
    largest_difference,
    relative_difference,
)
from lotune.model.loading import dtype_name

# Rounding alone comes near it: nano's logits reach 43, and their float32 values differ from float64 by 7e-5
# (docs/log.md). A larger difference in float32 therefore decides nothing yet.
TOLERANCE = 1e-4
"""Maximum difference of a logit between merged and adapted model, and of the two best logits at a tie."""
MAX_CHANGED_VERDICTS = 0.01
"""Maximum fraction of verdicts that rounding may change ..."""
VERDICT_ROWS = 200
"""... if at least this many rows are judged."""
# The adapted model's answers are used in this comparison only; logits are compared on all rows.
ANSWERED = 100
"""Number of rows that the adapted model answers."""
# bfloat16 has 8 significant bits, so a product rounds by 0.4 %, which does not explain a tenth of the norm.
MAX_REDUCED_DIFFERENCE = 0.1
"""Maximum relative difference (in norm) of the logits in a reduced dtype from those in float32."""

Greedy = Callable[[Any, Sequence[Sequence[int]], int], list[list[int]]]
"""(model, prompts, max_new_tokens) -> the token ids of each greedy answer."""
Judge = Callable[[int, Sequence[int]], tuple[str, bool | None]]
"""(row number, token ids of an answer) -> text of the answer, and whether it is correct (None: not judgeable)."""


@dataclass(frozen=True)
class MergeCheckRow:
    """A row of the data: token ids of prompt and answer, the first `prompt_tokens` of them the prompt."""

    tokens: Sequence[int]
    prompt_tokens: int


@dataclass(frozen=True)
class Reduced:
    """Comparison of the saved model in the reduced dtype of the evaluation with the merged one in float32.

    `logit_difference` is the relative difference of all logits in norm; `changed` are the changed texts, as in
    MergeCheck.
    """

    dtype: str
    logit_difference: float
    texts_changed: int
    verdicts_changed: int
    changed: Sequence[tuple[int, str, str]] = ()


@dataclass(frozen=True)
class MergeCheck:
    """Result of the check.

    `max_logit_difference` is measured in float32; if it exceeds the tolerance, `max_logit_difference_float64` is
    measured in float64. `greedy_differences` counts answers, of the first 100, that differ between merged and adapted
    model, each at a tie of the two best logits. `texts_changed` and `verdicts_changed` are the effect of rounding to
    `saved_dtype`, out of `judged` rows with a verdict. `asked` is the effect of generating in a reduced dtype, None for
    float32. `changed` lists the changed texts: row number, text before and after rounding.
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
    asked: Reduced | None = None
    changed: Sequence[tuple[int, str, str]] = ()


@dataclass(frozen=True)
class LogitAgreement:
    """Largest difference of the logits in float32 (and float64), and the answers of the merged model.

    `differences` counts the answers that differ from the adapted model's, each at a tie of the two best logits.
    """

    float32: float
    float64: float | None
    answers: list[list[int]]
    differences: int


def compare_merged(
    adapted: nn.Module,
    merged: nn.Module,
    questions: Sequence[MergeCheckRow],
    *,
    greedy: Greedy,
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
    on_device: OnDevice = nullcontext,
) -> LogitAgreement:
    """Compare the merged with the adapted model, both in float32, with one model at a time on its device.

    Raises: CheckError if logits differ by more than rounding, or answers differ elsewhere than at a tie.
    """
    _require_comparable("adapted", adapted)
    _require_comparable("merged", merged)
    if not questions:
        raise CheckError("merge check", "no rows to compare on", "at least one")
    rows, exceeding = [question.tokens for question in questions], list[Sequence[int]]()
    difference = largest_difference(adapted, merged, rows, batch_tokens, on_device, TOLERANCE, exceeding)
    exact = None
    if not difference <= TOLERANCE:  # a NaN fails, too
        # Only these rows, as float64 takes twice the memory and, on most GPUs, many times as long.
        exact = largest_difference(adapted, merged, exceeding, batch_tokens, partial(in_float64, on_device=on_device))
    decisive = difference if exact is None else exact
    if not decisive <= TOLERANCE:
        fault = f"merged and adapted logits differ by {decisive:.3g} on {len(questions)} rows"
        raise CheckError("merge check", fault, f"at most {TOLERANCE:g}", "merge again; do not use this merged model")
    prompts = [question.tokens[: question.prompt_tokens] for question in questions]
    with on_device(adapted):
        adapted_answers = greedy(adapted, prompts[:ANSWERED], max_new_tokens)
    with on_device(merged):
        answers = greedy(merged, prompts, max_new_tokens)
    # The two best logits can move by `difference` in opposite directions, so a gap of twice that can change its sign.
    tie = TOLERANCE if exact is None else 2 * difference
    merged_answers = answers[: len(adapted_answers)]
    differences = _compare_answers((adapted, merged), prompts, adapted_answers, merged_answers, tie, on_device)
    return LogitAgreement(difference, exact, answers, differences)


def check_saved(
    merged: nn.Module,
    saved: nn.Module,
    questions: Sequence[MergeCheckRow],
    agreement: LogitAgreement,
    *,
    saved_dtype: torch.dtype,
    greedy: Greedy,
    judge: Judge,
    max_new_tokens: int,
    on_device: OnDevice = nullcontext,
    asked_dtype: torch.dtype = torch.float32,
) -> MergeCheck:
    """Compare the saved weights, rounded to `saved_dtype` and read back as float32, with the merged ones.

    If the evaluation generates in a reduced dtype, `asked_dtype`, `saved` is cast to it and compared again. `passed` is
    False if rounding changes more than 1 % of the verdicts of at least 200 judged rows.
    Raises: CheckError if the saved weights are not the merged ones rounded, or compute something else in `asked_dtype`.
    """
    _require_comparable("saved", saved)
    # Weight by weight and exactly: answers could hide a damaged tensor, and this takes only seconds.
    _require_rounded(merged, saved, saved_dtype)
    prompts = [question.tokens[: question.prompt_tokens] for question in questions]
    if saved_dtype == torch.float32:
        rounded = agreement.answers  # the same weights
    else:
        with on_device(saved):
            rounded = greedy(saved, prompts, max_new_tokens)
    before = [judge(row, answer) for row, answer in enumerate(agreement.answers)]
    after = [judge(row, answer) for row, answer in enumerate(rounded)]
    result = _record((agreement.float32, agreement.float64), agreement.differences, saved_dtype, before, after)
    if asked_dtype == torch.float32:
        return result

    def generate(model: Any) -> list[list[int]]:
        return greedy(model, prompts, max_new_tokens)

    rows = [question.tokens for question in questions]
    return replace(result, asked=_reduced((merged, saved), rows, asked_dtype, generate, before, judge, on_device))


def _reduced(
    models: tuple[nn.Module, nn.Module],
    rows: Sequence[Sequence[int]],
    dtype: torch.dtype,
    generate: Callable[[Any], list[list[int]]],
    before: Sequence[tuple[str, bool | None]],
    judge: Judge,
    on_device: OnDevice,
) -> Reduced:
    """Measure how computing in `dtype` changes the logits and answers of the merged model.

    Raises: CheckError if the logits change by more than rounding explains.
    """
    merged, saved = models
    # Parameters only: `Module.to` would also round buffers such as rotary frequencies, which stay in float32.
    for parameter in saved.parameters():
        parameter.data = parameter.data.to(dtype)
    difference = relative_difference(merged, saved, rows, on_device)
    if not difference <= MAX_REDUCED_DIFFERENCE:  # a NaN fails, too
        fault = f"in {dtype_name(dtype)} the logits differ by {difference:.2g} of their norm from those in float32"
        raise CheckError("merge check", fault, f"at most {MAX_REDUCED_DIFFERENCE:g}", "evaluate.dtype=float32")
    with on_device(saved):
        after = [judge(row, answer) for row, answer in enumerate(generate(saved))]
    changed, verdicts = _changed(before, after), sum(old[1] != new[1] for old, new in zip(before, after, strict=True))
    return Reduced(dtype_name(dtype), difference, len(changed), verdicts, changed)


def judged_again(check: MergeCheck, is_correct: Callable[[int, str], bool | None]) -> MergeCheck:
    """Return the check with the verdicts of another scorer; `is_correct` judges a text as the answer to a row number.

    Only changed texts are judged, as equal texts have equal verdicts.
    """

    def verdicts(changed: Sequence[tuple[int, str, str]]) -> int:
        return sum(is_correct(row, before) != is_correct(row, after) for row, before, after in changed)

    asked = check.asked and replace(check.asked, verdicts_changed=verdicts(check.asked.changed))
    judged, rounded = sum(is_correct(row, "") is not None for row in range(check.rows)), verdicts(check.changed)
    return replace(check, verdicts_changed=rounded, judged=judged, asked=asked, passed=_passes(rounded, judged))


def read_check(record: Mapping[str, Any]) -> MergeCheck:
    """Return the check from its record, as made by `dataclasses.asdict`."""
    return MergeCheck(**{**record, "asked": record.get("asked") and Reduced(**record["asked"])})


def _changed(
    before: Sequence[tuple[str, bool | None]], after: Sequence[tuple[str, bool | None]]
) -> list[tuple[int, str, str]]:
    pairs = enumerate(zip(before, after, strict=True))
    return [(row, old[0], new[0]) for row, (old, new) in pairs if old[0] != new[0]]


def _passes(verdicts_changed: int, judged: int) -> bool:
    return judged < VERDICT_ROWS or verdicts_changed <= MAX_CHANGED_VERDICTS * judged


def _record(
    logits: tuple[float, float | None],
    greedy_differences: int,
    saved_dtype: torch.dtype,
    before: Sequence[tuple[str, bool | None]],
    after: Sequence[tuple[str, bool | None]],
) -> MergeCheck:
    """Return the result for a merge whose logits agree, from texts and verdicts before and after rounding."""
    pairs = list(zip(before, after, strict=True))
    verdicts = sum(old[1] != new[1] for old, new in pairs)
    judged = sum(verdict is not None for _, verdict in before)
    return MergeCheck(
        rows=len(pairs),
        max_logit_difference=logits[0],
        max_logit_difference_float64=logits[1],
        greedy_differences=greedy_differences,
        saved_dtype=dtype_name(saved_dtype),
        texts_changed=sum(old[0] != new[0] for old, new in pairs),
        verdicts_changed=verdicts,
        judged=judged,
        passed=_passes(verdicts, judged),
        changed=_changed(before, after),
    )


def _compare_answers(
    models: Sequence[nn.Module],
    prompts: Sequence[Sequence[int]],
    adapted_answers: Sequence[Sequence[int]],
    merged_answers: Sequence[Sequence[int]],
    tie: float,
    on_device: OnDevice,
) -> int:
    """Return the number of answers that differ, each at a tie: the two best logits of a model differ by at most `tie`.

    Raises: CheckError for an answer that differs elsewhere.
    """
    count = 0
    for row, (adapted, merged) in enumerate(zip(adapted_answers, merged_answers, strict=True)):
        if list(adapted) == list(merged):
            continue
        count += 1
        # Later tokens follow different texts, so only the first different token can be compared.
        token = first_difference(adapted, merged)
        gap = min(best_two_gap(model, [*prompts[row], *adapted[:token]], on_device) for model in models)
        if not gap <= tie:
            fault = f"row {row}: the answers differ at token {token}, where the two best logits differ by {gap:.3g}"
            raise CheckError("merge check", fault, f"equal answers, or a tie within {tie:g}", "merge again")
    return count


def first_difference(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the first index at which two sequences differ, or the length of the shorter one.

    >>> first_difference([1, 2, 3], [1, 5]), first_difference([1], [1, 2])
    (1, 1)
    """
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _require_rounded(merged: nn.Module, saved: nn.Module, dtype: torch.dtype) -> None:
    """Raise CheckError if the saved weights are not the merged ones, rounded once."""
    saved_weights = dict(saved.named_parameters())
    for name, weight in merged.named_parameters():
        if name not in saved_weights or not torch.equal(weight.to(dtype).float(), saved_weights[name]):
            fault = f"{name} is not the merged weight rounded to {str(dtype).removeprefix('torch.')}"
            raise CheckError("merge check", fault, "the merged weights", "write the merged model again")


def _require_comparable(name: str, model: nn.Module) -> None:
    if model.training:  # dropout would make a model differ from itself
        raise CheckError("merge check", f"the {name} model is in training mode", "evaluation mode")
    wrong = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if wrong:
        raise CheckError("merge check", f"the {name} model has {wrong.pop()} weights", "float32", "load it as float32")
