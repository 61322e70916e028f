"""Is the merged model the adapted one, and what does rounding it to the saved number format change?

Shapes: B rows, T tokens, V vocabulary. Weights and arithmetic are float32. A model with large logits can differ by
more than the tolerance from itself, computed in another order; so on rows where float32 shows a larger difference, the
same weights are compared in float64 (norms may stay in float32), which rounds by less, and answers may then part at
ties within twice the difference.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from lotune.errors import CheckError
from lotune.model.loading import dtype_name

TOLERANCE = 1e-4
"""Largest difference of a logit between the merged and the adapted model, and of the two best logits of a tie."""
VERDICT_SHARE = 0.01
"""Largest share of verdicts that rounding may change ..."""
VERDICT_ROWS = 200
"""... where it is measured on this many rows or more."""
ANSWERED = 100
"""Rows, the first ones, whose answers the adapted model writes, too; the logits of all rows are compared."""
MAX_REDUCED_DIFFERENCE = 0.1
"""Largest difference of the logits in a reduced number format from those in float32, in norm, as a share of these."""
BATCH_TOKENS = 2048
"""Tokens, with padding, whose logits are made at once."""
HELD_LOGITS = 2**28
"""Logits of one model that are kept, in the processor's memory, to be compared with the other's."""

Greedy = Callable[[Any, Sequence[Sequence[int]], int], list[list[int]]]
"""(model, prompts, max_new_tokens) -> the token ids of each greedy answer."""
OnDevice = Callable[[nn.Module], AbstractContextManager[Any]]
"""A block in which a model is where it computes, such as on a GPU that has no room for two."""
Judge = Callable[[int, Sequence[int]], tuple[str, bool | None]]
"""(row number, answer's token ids) -> its text and whether it is right (None: the key cannot be judged)."""


@dataclass(frozen=True)
class MergeCheckRow:
    """A real row: `tokens` is the prompt with its answer, of which the first `prompt_tokens` are the prompt."""

    tokens: Sequence[int]
    prompt_tokens: int


@dataclass(frozen=True)
class Reduced:
    """The saved model, asked in the evaluation's reduced number format, beside the merged one, asked in float32.

    `logit_difference` is the norm of the difference of all logits as a share of the norm of those in float32; `changed`
    are the changed texts, as those of a MergeCheck.
    """

    dtype: str
    logit_difference: float
    texts_changed: int
    verdicts_changed: int
    changed: Sequence[tuple[int, str, str]] = ()


@dataclass(frozen=True)
class MergeCheck:
    """What the check found.

    `max_logit_difference` is that of float32 arithmetic, `max_logit_difference_float64` that of float64 where the first
    is above the tolerance, else None. `greedy_differences` are answers that differ between merged and adapted, of the
    first 100, each at a tie of the two best logits.
    `texts_changed` and `verdicts_changed` count what rounding to `saved_dtype` changes; `judged` rows with a verdict.
    `asked` is what answering in a reduced format changes beside, None where the model answers in float32.
    `changed` are the changed texts: the row's number, the text before rounding and after.
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

    @property
    def verdict_share(self) -> float:
        """The share, 0 to 1, of the judged rows whose verdict rounding changes."""
        return self.verdicts_changed / self.judged if self.judged else 0.0


@dataclass(frozen=True)
class LogitAgreement:
    """How far apart the logits of merged and adapted are, in float32 and maybe float64, and the merged one's answers.

    `differences` counts the answers in which they part, each at a tie of the two best logits.
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
    place: OnDevice = nullcontext,
) -> LogitAgreement:
    """Compare the merged model with the adapted one on real rows, both float32; one of them at a time is in its place.

    Raises: CheckError where they give different logits or answers.
    """
    _require_comparable("adapted", adapted)
    _require_comparable("merged", merged)
    if not questions:
        raise CheckError("merge check", "there are no rows to compare on", "one at least")
    rest: list[MergeCheckRow] = []
    difference, exact = _largest_difference(adapted, merged, questions, batch_tokens, place, rest), None
    if not difference <= TOLERANCE:  # a NaN fails, too
        exact = _largest_difference(adapted, merged, rest, batch_tokens, partial(_in_float64, place=place))
    apart = difference if exact is None else exact
    if not apart <= TOLERANCE:
        found = f"merged and adapted logits differ by {apart:.3g} on {len(questions)} rows"
        raise CheckError("merge check", found, f"at most {TOLERANCE:g}", "merge again; do not use this merged model")
    prompts = [question.tokens[: question.prompt_tokens] for question in questions]
    with place(adapted):
        others = greedy(adapted, prompts[:ANSWERED], max_new_tokens)
    with place(merged):
        answers = greedy(merged, prompts, max_new_tokens)
    tie = TOLERANCE if exact is None else 2 * difference
    differences = _compare_answers((adapted, merged), prompts, others, answers[: len(others)], tie, place)
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
    place: OnDevice = nullcontext,
    asked_dtype: torch.dtype = torch.float32,
) -> MergeCheck:
    """Compare the saved weights with the merged ones: `saved`, rounded to `saved_dtype`, is read back as float32.

    Where the evaluation asks in a reduced format, `asked_dtype`, `saved` is then cast to it and asked again.
    `passed` is False where rounding changes more than 1 % of the verdicts of 200 judged rows or more.
    Raises: CheckError where the saved weights are not the merged ones rounded, or compute something else when reduced.
    """
    _require_comparable("saved", saved)
    _require_rounded(merged, saved, saved_dtype)
    prompts = [question.tokens[: question.prompt_tokens] for question in questions]
    if saved_dtype == torch.float32:
        rounded = agreement.answers  # the same weights, asked already
    else:
        with place(saved):
            rounded = greedy(saved, prompts, max_new_tokens)
    before = [judge(row, answer) for row, answer in enumerate(agreement.answers)]
    after = [judge(row, answer) for row, answer in enumerate(rounded)]
    found = _record((agreement.float32, agreement.float64), agreement.differences, saved_dtype, before, after)
    if asked_dtype == torch.float32:
        return found

    def asked(model: Any) -> list[list[int]]:
        return greedy(model, prompts, max_new_tokens)

    return replace(found, asked=_reduced((merged, saved), questions, asked_dtype, asked, before, judge, place))


def _reduced(
    models: tuple[nn.Module, nn.Module],
    questions: Sequence[MergeCheckRow],
    dtype: torch.dtype,
    asked: Callable[[Any], list[list[int]]],
    before: Sequence[tuple[str, bool | None]],
    judge: Judge,
    place: OnDevice,
) -> Reduced:
    """What computing in `dtype` changes of the merged model's logits and answers.

    Raises: CheckError where it changes the logits by more than rounding does.
    """
    merged, saved = models
    for parameter in saved.parameters():
        parameter.data = parameter.data.to(dtype)
    difference = _relative_difference(merged, saved, questions, place)
    if not difference <= MAX_REDUCED_DIFFERENCE:  # a NaN fails, too
        found = f"in {dtype_name(dtype)} the logits differ by {difference:.2g} of their norm from those in float32"
        raise CheckError("merge check", found, f"at most {MAX_REDUCED_DIFFERENCE:g}", "evaluate.dtype=float32")
    with place(saved):
        after = [judge(row, answer) for row, answer in enumerate(asked(saved))]
    changed, verdicts = _changed(before, after), sum(old[1] != new[1] for old, new in zip(before, after, strict=True))
    return Reduced(dtype_name(dtype), difference, len(changed), verdicts, changed)


def _relative_difference(
    merged: nn.Module, saved: nn.Module, questions: Sequence[MergeCheckRow], place: OnDevice
) -> float:
    """The norm of the difference of the logits of two models on all rows, as a share of the norm of the first one's."""
    gap = norm = 0.0
    for _, expected, found in _logits(merged, saved, questions, BATCH_TOKENS, place):
        gap, norm = gap + float((found - expected).square().sum()), norm + float(expected.square().sum())
    return (gap / norm) ** 0.5 if norm else gap


def judged_again(check: MergeCheck, right: Callable[[int, str], bool | None]) -> MergeCheck:
    """Return the check with the verdicts of another judge, `right`: (row's number, text) -> whether it is right.

    Texts that rounding leaves as they are have one verdict, whatever the judge.
    """

    def verdicts(changed: Sequence[tuple[int, str, str]]) -> int:
        return sum(right(row, before) != right(row, after) for row, before, after in changed)

    asked = check.asked and replace(check.asked, verdicts_changed=verdicts(check.asked.changed))
    judged, rounded = sum(right(row, "") is not None for row in range(check.rows)), verdicts(check.changed)
    return replace(check, verdicts_changed=rounded, judged=judged, asked=asked, passed=_passes(rounded, judged))


def read_check(record: Mapping[str, Any]) -> MergeCheck:
    """Return the check that `dataclasses.asdict` made a record of."""
    return MergeCheck(**{**record, "asked": record.get("asked") and Reduced(**record["asked"])})


def _changed(
    before: Sequence[tuple[str, bool | None]], after: Sequence[tuple[str, bool | None]]
) -> list[tuple[int, str, str]]:
    pairs = enumerate(zip(before, after, strict=True))
    return [(row, old[0], new[0]) for row, (old, new) in pairs if old[0] != new[0]]


def _passes(verdicts_changed: int, judged: int) -> bool:
    return judged < VERDICT_ROWS or verdicts_changed <= VERDICT_SHARE * judged


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
        saved_dtype=dtype_name(saved_dtype),
        texts_changed=sum(old[0] != new[0] for old, new in pairs),
        verdicts_changed=verdicts,
        judged=judged,
        passed=_passes(verdicts, judged),
        changed=_changed(before, after),
    )


@contextmanager
def _in_float64(model: nn.Module, place: OnDevice) -> Iterator[None]:
    """A block in which a float32 model computes in float64; its weights are afterwards what they were."""
    try:
        with place(model.double()):
            yield
    finally:
        model.float()


def _largest_difference(
    first: nn.Module,
    second: nn.Module,
    questions: Sequence[MergeCheckRow],
    batch_tokens: int,
    place: OnDevice = nullcontext,
    rest: list[MergeCheckRow] | None = None,
) -> float:
    """The largest absolute difference of a logit over all tokens of all rows; NaN where there is one.

    Rows of a batch with a larger difference than the tolerance are added to `rest`.
    """
    largest = torch.zeros((), dtype=torch.float64)
    for rows, one, other in _logits(first, second, questions, batch_tokens, place):
        gap = (one - other).abs().max().double()
        largest = torch.maximum(largest, gap)  # maximum and max keep a NaN
        if rest is not None and not gap <= TOLERANCE:
            rest += [MergeCheckRow(row, len(row)) for row in rows]
    return float(largest)


@torch.inference_mode()
def _logits(
    first: nn.Module, second: nn.Module, questions: Sequence[MergeCheckRow], batch_tokens: int, place: OnDevice
) -> Iterator[tuple[list[Sequence[int]], torch.Tensor, torch.Tensor]]:
    """Yield the rows of a batch and the logits (N, V) that both models give them, 0 for tokens that both mask.

    Each model is in its place while it computes.
    """
    batches = deque(_batches([question.tokens for question in questions], batch_tokens))
    while batches:
        held: list[tuple[list[Sequence[int]], torch.Tensor]] = []
        with place(first):
            while batches and sum(logits.numel() for _, logits in held) < HELD_LOGITS:
                rows = batches.popleft()
                held.append((rows, _real_logits(first, rows).cpu()))
        with place(second):
            for rows, logits in held:
                others = _real_logits(second, rows).cpu()
                masked = (logits == -math.inf) & (others == -math.inf)
                yield rows, logits.masked_fill(masked, 0.0), others.masked_fill(masked, 0.0)


def _compare_answers(
    models: Sequence[nn.Module],
    prompts: Sequence[Sequence[int]],
    adapted_answers: Sequence[Sequence[int]],
    merged_answers: Sequence[Sequence[int]],
    tie: float,
    place: OnDevice,
) -> int:
    """The number of answers that differ, all of them at a tie: the two best logits at most `tie` apart in one model.

    Raises: CheckError for one that differs elsewhere.
    """
    count = 0
    for row, (one, other) in enumerate(zip(adapted_answers, merged_answers, strict=True)):
        if list(one) == list(other):
            continue
        count += 1
        token = first_difference(one, other)
        gap = min(_best_two_gap(model, [*prompts[row], *one[:token]], place) for model in models)
        if not gap <= tie:
            found = f"row {row}: the answers part at token {token}, where the two best logits are {gap:.3g} apart"
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
def _best_two_gap(model: nn.Module, tokens: Sequence[int], place: OnDevice = nullcontext) -> float:
    with place(model):
        best = _real_logits(model, [tokens])[-1].topk(2).values
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


def _real_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The logits of all tokens of some rows, one after the other: (N, V)."""
    input_ids, real = _padded(rows, model)
    logits = model(input_ids=input_ids, use_cache=False).logits
    assert isinstance(logits, torch.Tensor)
    return logits[real]
