"""The scorecard: what was gained on the target, what was kept, with how many parameters, and whether it counts.

Fractions (accuracy, kept, threshold, ratio) are 0 to 1; the retained metrics are 0 to 100, as their protocols have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lotune.errors import DataError, RunError
from lotune.evaluate.parameter_ratio import ratio, ratio_denominator
from lotune.evaluate.retention import RetentionMetric, gate_passed
from lotune.evaluate.statistics import (
    SIGNIFICANCE,
    Interval,
    PairedTest,
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    paired_permutation_test,
    wilson,
)
from lotune.files import read_json, write_json
from lotune.tasks.task import Score


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True,
        serialize_by_alias=True, validate_by_name=True,
    )  # fmt: skip


class CategoryResult(_Record):
    """One group of questions: `n` that can be judged, accuracy or mean after and before; no figures where n is 0.

    An interval of None beside a figure is not estimable.
    """

    n: int
    value: float | None
    base_value: float | None
    interval: Interval | None
    unjudgeable: int = 0
    base_interval: Interval | None = None


class Target(_Record):
    """The task that was trained on, measured on the test rows before (base) and after."""

    task: str
    metric: str
    value: float
    base_value: float
    interval: Interval | None
    """95 % interval of `value`: Wilson's for an accuracy, a bootstrap's for a mean; null where it is not estimable."""
    base_interval: Interval | None
    n: int
    """Rows that can be judged."""
    unjudgeable: int
    """Rows whose key cannot be judged; they are in no figure."""
    by_category: dict[str, CategoryResult] = Field(alias="by_kind")
    gained: int
    """Rows that are better after than before."""
    lost: int
    p_value: float
    """One-sided p of the paired test (McNemar's exact one for an accuracy): chance alone gains this much or more."""
    better: bool
    """Whether p_value is below 0.05."""
    difference_interval: Interval | None = None
    """95 % interval of value - base_value where the metric is a mean and it is estimable (paired bootstrap)."""
    scorer: str = ""
    """The judging rule, such as significant:5."""
    score: str | None = None
    """The per-example score that the metric is the mean of; null for an accuracy."""

    @property
    def in_points(self) -> bool:
        """Whether the figures are means of a score, 0 to 100, and not accuracies, 0 to 1."""
        return self.score is not None or self.difference_interval is not None


class Parameters(_Record):
    """Trained parameters over those of the base: `ratio` is trainable / total; `base_total` is the base's own count."""

    trainable: int
    total: int
    ratio: float
    convention: str
    base_total: int


class ContestScore(_Record):
    """One figure from accuracy and ratio, and where it would stand among the contest's published rows."""

    rule: str
    value: float
    rank: int | None = None
    published: int | None = None


class Checkpoint(_Record):
    """One checkpoint; `value`, `score`, `retained` (the least of the gating metrics) and the gate, where it was tested.

    The intervals, 95 %, are those of the two values; None beside a value is not estimable.
    """

    name: str
    step: int
    validation_value: float | None = None
    validation_interval: Interval | None = None
    validation_loss: float | None = None
    value: float | None = None
    interval: Interval | None = None
    score: float | None = None
    retained: float | None = None
    gate_passed: bool | None = None


class BestOnTest(_Record):
    """The contest's own choice, the best of all checkpoints *on the test*, which flatters; shown beside the other."""

    checkpoint: str
    value: float
    score: float | None = None


class AskedRows(_Record):
    """The rows of an evaluation set (validation, test or retention).

    `rows` are measured; where they come from a file, `file` is its name and `file_rows` how many rows it has.
    `too_long` prompts are too long for the model: nobody is asked, and they count as wrong. `cut` prompts were
    shortened to fit.
    """

    name: str
    rows: int
    file: str = ""
    file_rows: int | None = None
    too_long: int = 0
    cut: int = 0

    @property
    def limited(self) -> bool:
        """Whether the file has more rows than are asked."""
        return self.file_rows is not None and self.rows < self.file_rows


class Check(_Record):
    """A check on the finished work, such as the merge check."""

    name: str
    passed: bool
    detail: str = ""


class Alone(_Record):
    """What asking again alone in a reduced number format found: of `rows` answers so many texts and verdicts differ."""

    set: str = ""
    """The evaluation set: test or retention."""
    model: str = ""
    """Whose answers: base, or a checkpoint's name."""
    dtype: str
    rows: int
    texts: int
    verdicts: int

    @property
    def share(self) -> float:
        """The share, 0 to 1, of the verdicts that differ."""
        return self.verdicts / self.rows if self.rows else 0.0

    def describe(self) -> str:
        """Return what was found as a clause.

        >>> Alone(dtype="bfloat16", rows=100, texts=3, verdicts=1).describe()
        '100 rows asked again alone in bfloat16: 3 texts and 1 verdicts differ; intervals are 1.0 points wider each way'
        """
        wider = f"; intervals are {100 * self.share:.1f} points wider each way" if self.verdicts else ""
        found = f"{self.texts} texts and {self.verdicts} verdicts differ"
        return f"{self.rows} rows asked again alone in {self.dtype}: {found}{wider}"


class Scorecard(_Record):
    """Everything that a run has to show. `valid` needs the gate, a target better than the base's, and every check."""

    target: Target
    retention: tuple[RetentionMetric, ...]
    parameters: Parameters
    score: ContestScore
    chosen_checkpoint: str
    checkpoints: tuple[Checkpoint, ...]
    checks: tuple[Check, ...]
    valid: bool
    reasons: tuple[str, ...] = ()
    """Why it is not valid, empty where it is."""
    best_on_test: BestOnTest | None = None
    """Best of N on the test, where all checkpoints were tested."""
    base: str = ""
    """Name of the base model."""
    asked_alone: tuple[Alone, ...] = ()
    """Rows asked again alone, of each model and evaluation set; empty where the models answer in float32."""
    notes: tuple[str, ...] = ()
    """What a reader should know besides: prompts that were cut, overlap, rounding, what was not checked."""
    asked: tuple[AskedRows, ...] = ()
    """The rows of each evaluation set: how many of which file, how many too long to be asked or cut."""


class ScoredExample(NamedTuple):
    """The verdict on one row: the row's id, its kind and the judgement."""

    id: str
    category: str
    score: Score


def measure_target(
    task: str,
    metric: str,
    base: Sequence[ScoredExample],
    tuned: Sequence[ScoredExample],
    *,
    scorer: str = "",
    score: str | None = None,
) -> Target:
    """The target's figures from the verdicts on the same rows before and after.

    Without `score` the figure is the accuracy of the verdicts (0 to 1, McNemar's test); with it, the mean of that
    per-example score, in its own unit (sign-flip test). Rows that cannot be judged are counted and left out.
    Raises: DataError where the two sets are not of the same rows, or nothing can be judged.
    """
    pairs = _pairs(base, tuned, score)
    known = [(kind, *pair) for kind, pair in pairs if pair is not None]
    if not known:
        raise DataError("evaluation", f"none of {len(pairs)} rows has a key that can be judged")
    before, after = [old for _, old, _ in known], [new for _, _, new in known]
    test = _paired_test(before, after, score)
    return Target(
        task=task,
        metric=metric,
        value=sum(after) / len(after),
        base_value=sum(before) / len(before),
        interval=_interval(after, score),
        base_interval=_interval(before, score),
        n=len(known),
        unjudgeable=len(pairs) - len(known),
        by_category=_by_category(pairs, score),
        gained=test.gained,
        lost=test.lost,
        p_value=test.p_better,
        better=test.better,
        difference_interval=bootstrap_difference(before, after) if score else None,
        scorer=scorer,
        score=score,
    )


def measure_parameters(trainable: int, base_total: int, convention: str) -> Parameters:
    """The ratio by the named convention. Raises: SettingsError for an unknown one."""
    return Parameters(
        trainable=trainable,
        total=ratio_denominator(base_total, convention),
        ratio=ratio(trainable, base_total, convention),
        convention=convention,
        base_total=base_total,
    )


def make_scorecard(
    *,
    target: Target,
    retention: Sequence[RetentionMetric],
    parameters: Parameters,
    score: ContestScore,
    chosen_checkpoint: str,
    checkpoints: Sequence[Checkpoint],
    checks: Sequence[Check] = (),
    base: str = "",
    asked_alone: Sequence[Alone] = (),
    notes: Sequence[str] = (),
    asked: Sequence[AskedRows] = (),
) -> Scorecard:
    """The whole card, its verdict and the contest's rule drawn from the parts."""
    reasons = why_not_valid(target, retention, checks)
    return Scorecard(
        target=target,
        retention=tuple(retention),
        parameters=parameters,
        score=score,
        chosen_checkpoint=chosen_checkpoint,
        checkpoints=tuple(checkpoints),
        checks=tuple(checks),
        valid=not reasons,
        reasons=tuple(reasons),
        best_on_test=best_on_test(checkpoints),
        base=base,
        asked_alone=tuple(asked_alone),
        notes=(*notes, *asked_notes(asked)),
        asked=tuple(asked),
    )


def asked_notes(asked: Sequence[AskedRows]) -> list[str]:
    """What to know about the rows that figures rest on: limits, prompts that are too long, prompts that were cut.

    >>> asked_notes([AskedRows(name="test", rows=500, file="choice.json", file_rows=2000, too_long=1)])
    ['test: 500 of 2,000 rows of choice.json', 'test: 1 of 500 prompts too long for the model: not asked, wrong']
    """
    notes = []
    for one in asked:
        if one.limited:
            notes.append(f"{one.name}: {one.rows:,} of {one.file_rows:,} rows of {one.file}")
        if one.too_long:
            notes.append(
                f"{one.name}: {one.too_long:,} of {one.rows:,} prompts too long for the model: not asked, wrong"
            )
        if one.cut:
            notes.append(f"{one.name}: {one.cut:,} of {one.rows:,} prompts cut to fit the context")
    return notes


def why_not_valid(target: Target, retention: Sequence[RetentionMetric], checks: Sequence[Check]) -> list[str]:
    """The reasons against a result, empty where it is valid."""
    reasons = [_retention_reason(line) for line in retention if line.is_gated and not line.passed]
    if not gate_passed(retention) and not reasons:
        reasons.append("retention was not measured")
    if not target.better:
        chance = f"p = {target.p_value:.2g}, below {SIGNIFICANCE} needed"
        reasons.append(f"{target.task} is not better than the base beyond chance ({chance})")
    return reasons + [f"the check {check.name} failed" for check in checks if not check.passed]


def best_on_test(checkpoints: Sequence[Checkpoint]) -> BestOnTest | None:
    """The contest's pick: the highest test figure, the earliest of equals; None unless all checkpoints were tested.

    >>> best_on_test([Checkpoint(name="step-1", step=1, value=0.5), Checkpoint(name="step-2", step=2, value=0.4)])
    BestOnTest(checkpoint='step-1', value=0.5, score=None)
    >>> best_on_test([Checkpoint(name="step-1", step=1, value=0.5), Checkpoint(name="step-2", step=2)])
    """
    tested = [(point.value, point) for point in checkpoints if point.value is not None]
    if not tested or len(tested) < len(checkpoints):
        return None
    value, best = max(tested, key=lambda pair: (pair[0], -pair[1].step))
    return BestOnTest(checkpoint=best.name, value=value, score=best.score)


def write_scorecard(path: Path, card: Scorecard) -> None:
    """Write the card as JSON."""
    write_json(path, card.model_dump(mode="json"))


def read_scorecard(path: Path) -> Scorecard:
    """The card in a file. Raises: RunError where it is missing, damaged or of another form."""
    try:
        return Scorecard.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(str(path), f"is no scorecard: {place}: {first['msg']}", remedy="run evaluate again") from None


_Pair = tuple[float, float]
"""A row's figure before and after."""


def _pairs(
    base: Sequence[ScoredExample], tuned: Sequence[ScoredExample], score: str | None
) -> list[tuple[str, _Pair | None]]:
    """Kind and figures of each row, None where it cannot be judged."""
    before: Mapping[str, Score] = {verdict.id: verdict.score for verdict in base}
    after_ids = {verdict.id for verdict in tuned}
    if set(before) != after_ids or not len(before) == len(base) == len(tuned):
        odd = len(set(before) ^ after_ids)
        found = f"{len(base)} verdicts before and {len(tuned)} after, {odd} of them on other rows"
        raise DataError("evaluation", found, "one verdict a row, the same rows before and after")
    return [(verdict.category, _pair(before[verdict.id], verdict.score, score)) for verdict in tuned]


def _pair(before: Score, after: Score, score: str | None) -> _Pair | None:
    if before.correct is None or after.correct is None:
        return None
    if score is None:
        return float(before.correct), float(after.correct)
    return before.scores[score], after.scores[score]


def _paired_test(before: Sequence[float], after: Sequence[float], score: str | None) -> PairedTest:
    if score is None:
        return mcnemar([value == 1 for value in before], [value == 1 for value in after])
    return paired_permutation_test(before, after)


def _interval(values: Sequence[float], score: str | None) -> Interval | None:
    return wilson(int(sum(values)), len(values)) if score is None else bootstrap_mean(values)


def _by_category(pairs: Sequence[tuple[str, _Pair | None]], score: str | None) -> dict[str, CategoryResult]:
    kinds = sorted({kind for kind, _ in pairs})
    return {kind: _kind([pair for other, pair in pairs if other == kind], score) for kind in kinds if kind}


def _kind(pairs: Sequence[_Pair | None], score: str | None) -> CategoryResult:
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return CategoryResult(n=0, value=None, base_value=None, interval=None, unjudgeable=len(pairs))
    after = [new for _, new in known]
    return CategoryResult(
        n=len(known),
        value=sum(after) / len(known),
        base_value=sum(old for old, _ in known) / len(known),
        interval=_interval(after, score),
        unjudgeable=len(pairs) - len(known),
        base_interval=_interval([old for old, _ in known], score),
    )


def _retention_reason(line: RetentionMetric) -> str:
    if line.retained is None:
        return f"{line.task} {line.metric}: not measurable, the base has {line.base:.2f} points"
    return f"{line.task} {line.metric}: {line.retained:.1%} of the base kept, {line.threshold:.0%} needed"
