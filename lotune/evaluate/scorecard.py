"""The scorecard: gain on the target, retention, trained parameters, and whether the result is valid.

Fractions (accuracy, retained, threshold, ratio) are 0 to 1; retention metrics are 0 to 100, as in their protocols.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lotune.errors import RunError
from lotune.evaluate.divergence import BaseDivergence
from lotune.evaluate.parameter_ratio import ratio, ratio_denominator
from lotune.evaluate.repair import Repair
from lotune.evaluate.replay import ReplayCounts
from lotune.evaluate.retention import RetentionMetric, gate_passed
from lotune.evaluate.statistics import SIGNIFICANCE, Interval
from lotune.evaluate.strength import StrengthSearch
from lotune.files import read_json, write_json
from lotune.tasks.metrics import goodness


class _Record(BaseModel):
    # scorecard.json keeps its keys where the code has plainer names, such as by_category for `by_kind`.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True,
        serialize_by_alias=True, validate_by_name=True,
    )  # fmt: skip


class CategoryResult(_Record):
    """Figures of one category: accuracy or mean of its `n` judgeable rows before and after tuning, None if n is 0.

    An interval is None if it cannot be estimated.
    """

    n: int
    value: float | None
    base_value: float | None
    interval: Interval | None
    unjudgeable: int = 0
    base_interval: Interval | None = None


class MajorityResult(_Record):
    """The most frequent reference of the training rows, given as the answer to every test row."""

    answer: str
    value: float
    """Accuracy, 0 to 1, on the rows of the target's figures."""
    interval: Interval | None
    p_value: float
    """One-sided p-value of the paired test of the tuned model against it."""
    better: bool
    """Whether the tuned model is better beyond chance: p_value is below 0.05."""


class Target(_Record):
    """The metric of the target task on the test rows, before (base) and after tuning."""

    task: str
    metric: str
    value: float
    base_value: float
    interval: Interval | None
    """95 % interval of `value`: Wilson's for an accuracy, a bootstrap's for a mean; null if not estimable."""
    base_interval: Interval | None
    n: int
    """Judgeable rows."""
    unjudgeable: int
    """Rows without a judgeable reference; no figure includes them."""
    by_category: dict[str, CategoryResult] = Field(alias="by_kind")
    gained: int
    """Rows that are better after than before."""
    lost: int
    p_value: float
    """One-sided p-value of the paired test (for an accuracy, McNemar's exact test)."""
    better: bool
    """Whether p_value is below 0.05."""
    difference_interval: Interval | None = None
    """95 % interval of value - base_value (paired bootstrap), for a metric that is a mean."""
    scorer: str = ""
    """The scorer, such as significant:5."""
    score: str | None = None
    """Name of the per-example score of which the metric is the mean; null for an accuracy."""
    lower_is_better: bool = False
    """Whether a lower value is better, as of bits per byte, whose figures have no upper bound."""
    beside: dict[str, CategoryResult] = {}
    """Further metrics by name, of which none decides: ROUGE-L beside bits per byte."""
    majority: MajorityResult | None = None
    """The majority answer, for labels and choices."""
    chance: float | None = None
    """Accuracy, 0 to 1, of guessing, for labels and choices."""

    @property
    def is_mean(self) -> bool:
        """Whether the figures are means of a score rather than accuracies, 0 to 1."""
        return self.score is not None or self.difference_interval is not None

    @property
    def in_points(self) -> bool:
        """Whether the figures are means of a score of 0 to 100."""
        return self.is_mean and not self.lower_is_better


class Parameters(_Record):
    """Trained parameters: `ratio` is trainable / total; `base_total` is the base's own number of parameters."""

    trainable: int
    total: int
    ratio: float
    convention: str
    base_total: int


class ContestScore(_Record):
    """One figure from accuracy and ratio, with its rank among the published rows if these can be compared with it."""

    rule: str
    value: float
    rank: int | None = None
    published: int | None = None


class Checkpoint(_Record):
    """Figures of a checkpoint: those of the validation, and `value`, `score`, `retained` and the gate if it was tested.

    `retained` and `validation_retained` are the minimum over the gated metrics, on the test and the validation rows. An
    interval (95 %) is None if it cannot be estimated.
    """

    name: str
    step: int
    validation_value: float | None = None
    validation_interval: Interval | None = None
    validation_loss: float | None = None
    validation_retained: float | None = None
    value: float | None = None
    interval: Interval | None = None
    score: float | None = None
    retained: float | None = None
    gate_passed: bool | None = None


class BestOnTest(_Record):
    """The best checkpoint *on the test rows*, as the contest chose it: an optimistic figure, shown for comparison."""

    checkpoint: str
    value: float
    score: float | None = None


class EvaluationSetCounts(_Record):
    """The numbers of rows of an evaluation set (validation, test or retention).

    `rows` is the number of rows measured; `file` and `file_rows` are the name and the size of their file, if any.
    `too_long` prompts exceed the context and count as wrong; `left_out` prompts exceed it, too, and count in no figure,
    as the likelihood of their references was not measured. `cut` prompts were shortened to fit.
    """

    name: str
    rows: int
    file: str = ""
    file_rows: int | None = None
    too_long: int = 0
    cut: int = 0
    left_out: int = 0

    @property
    def limited(self) -> bool:
        """Whether only some of the file's rows are measured."""
        return self.file_rows is not None and self.rows < self.file_rows


class Check(_Record):
    """A check of the finished work, such as the merge check, or a claim about it; `detail` is its evidence."""

    name: str
    passed: bool | None
    """Whether it passed; null if it is not applicable, for which `detail` has the reason."""
    detail: str = ""

    @property
    def result(self) -> str:
        """The result in words: passed, failed or not applicable."""
        return "not applicable" if self.passed is None else "passed" if self.passed else "failed"


class BatchingEffect(_Record):
    """How many texts and verdicts differ when `rows` rows are generated alone rather than in a batch."""

    set: str = ""
    """The evaluation set: test or retention."""
    model: str = ""
    """The model that answers: base, or the name of a checkpoint."""
    dtype: str
    rows: int
    texts: int
    verdicts: int

    @property
    def changed_verdict_fraction(self) -> float:
        """Fraction of the verdicts that differ."""
        return self.verdicts / self.rows if self.rows else 0.0

    def describe(self) -> str:
        """Return the effect as a clause for people.

        >>> BatchingEffect(dtype="bfloat16", rows=100, texts=3, verdicts=1).describe()
        '100 rows generated again alone in bfloat16: 3 texts and 1 verdicts differ; intervals are 1.0 points wider'
        """
        wider = f"; intervals are {100 * self.changed_verdict_fraction:.1f} points wider" if self.verdicts else ""
        counts = f"{self.texts} texts and {self.verdicts} verdicts differ"
        return f"{self.rows} rows generated again alone in {self.dtype}: {counts}{wider}"


def next_name(folder: Path) -> str:
    """Return the name of the run to try after the one in a folder.

    >>> next_name(Path("runs/demo")), next_name(Path("."))
    ('demo-next', 'run-next')
    """
    return f"{folder.name or 'run'}-next"


class NextStep(_Record):
    """A new run to try after one that is not valid: its settings, `key=value`, and the reason of the rule behind it.

    `recipe` is the run's recipe, which the settings change. It is not stored: the folder of a run may move.
    """

    settings: tuple[str, ...]
    reason: str
    recipe: Path = Field(Path("recipe.yaml"), exclude=True)

    @property
    def command(self) -> str:
        """The command of the new run."""
        name = f"name={next_name(self.recipe.parent)}"
        return shlex.join(["lotune", "run", str(self.recipe), name, *self.settings])


class Scorecard(_Record):
    """The result of a run.

    It is `valid` if the gate and all checks pass, and the target is better than the base's and the majority answer.
    """

    target: Target
    retention: tuple[RetentionMetric, ...]
    parameters: Parameters
    score: ContestScore | None
    """The contest's score; null for a metric that is no fraction, such as bits per byte."""
    chosen_checkpoint: str
    checkpoints: tuple[Checkpoint, ...]
    checks: tuple[Check, ...]
    valid: bool
    reasons: tuple[str, ...] = ()
    """Reasons why the result is not valid."""
    best_on_test: BestOnTest | None = None
    """The best checkpoint on the test rows, if all were tested."""
    base: str = ""
    """Name of the base model."""
    divergence: tuple[BaseDivergence, ...] = ()
    """How far the tuned model is from its base, on the prompts of test rows and on replay rows."""
    replay: ReplayCounts = ReplayCounts()
    """The replay rows of the tuning."""
    repair: Repair | None = None
    """What was done because no checkpoint of the tuning passed the gate on the validation rows."""
    strength: StrengthSearch | None = None
    """The strengths of the adapter that were tried on the validation rows."""
    batching_effects: tuple[BatchingEffect, ...] = Field((), alias="asked_alone")
    """The effect of batching, by model and evaluation set; empty in float32."""
    notes: tuple[str, ...] = ()
    """Remarks on shortened prompts, contamination, rounding and checks that were left out."""
    evaluation_sets: tuple[EvaluationSetCounts, ...] = Field((), alias="asked")
    """Numbers of rows of each evaluation set."""
    learning: str = ""
    """Whether the tuning had not finished learning or no longer learnt, if the result is not valid."""
    claims: tuple[Check, ...] = ()
    """What a reader wants to know of the result, passed, failed or not applicable; empty in older scorecards."""
    next_steps: tuple[NextStep, ...] = ()
    """At most three commands to try if the result is not valid, the likeliest remedy first."""


def measure_parameters(trainable: int, base_total: int, convention: str) -> Parameters:
    """Return the parameter ratio by a convention. Raises: SettingsError for an unknown convention."""
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
    score: ContestScore | None,
    chosen_checkpoint: str,
    checkpoints: Sequence[Checkpoint],
    checks: Sequence[Check] = (),
    base: str = "",
    batching_effects: Sequence[BatchingEffect] = (),
    notes: Sequence[str] = (),
    evaluation_sets: Sequence[EvaluationSetCounts] = (),
    replay: ReplayCounts | None = None,
    repair: Repair | None = None,
    strength: StrengthSearch | None = None,
    divergence: Sequence[BaseDivergence] = (),
    claims: Sequence[Check] = (),
) -> Scorecard:
    """Return the scorecard, with its verdict and the best checkpoint on the test derived from the parts."""
    reasons = why_not_valid(target, retention, checks)
    described = [line for line in (repair, strength, *divergence) if line is not None]
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
        best_on_test=best_on_test(checkpoints, target.metric),
        base=base,
        replay=replay or ReplayCounts(),
        repair=repair,
        strength=strength,
        batching_effects=tuple(batching_effects),
        divergence=tuple(divergence),
        notes=(*notes, *(line.describe() for line in described), *evaluation_set_notes(evaluation_sets)),
        evaluation_sets=tuple(evaluation_sets),
        claims=tuple(claims),
    )


def evaluation_set_notes(evaluation_sets: Sequence[EvaluationSetCounts]) -> list[str]:
    """Return remarks on evaluation sets: rows left out by a limit, prompts that are too long or shortened.

    >>> counts = EvaluationSetCounts(name="test", rows=500, file="choice.json", file_rows=2000, too_long=1)
    >>> evaluation_set_notes([counts])
    ['test: 500 of 2,000 rows of choice.json', 'test: 1 of 500 prompts too long for the model: counted as wrong']
    """
    notes = []
    for counts in evaluation_sets:
        if counts.limited:
            notes.append(f"{counts.name}: {counts.rows:,} of {counts.file_rows:,} rows of {counts.file}")
        prompts = f"of {counts.rows:,} prompts"
        if counts.too_long:
            notes.append(f"{counts.name}: {counts.too_long:,} {prompts} too long for the model: counted as wrong")
        if counts.left_out:
            notes.append(f"{counts.name}: {counts.left_out:,} {prompts} too long with their answers: left out")
        if counts.cut:
            notes.append(f"{counts.name}: {counts.cut:,} {prompts} truncated to fit the context")
    return notes


def why_not_valid(target: Target, retention: Sequence[RetentionMetric], checks: Sequence[Check]) -> list[str]:
    """Return the reasons why a result is not valid, empty if it is."""
    reasons = [_retention_reason(line) for line in retention if line.is_gated and not line.passed]
    # A gate without any metric fails without a line that says why.
    if not gate_passed(retention) and not reasons:
        reasons.append("retention was not measured")
    # By the paired test, not by the figures alone: with few rows, an accuracy rises by chance half of the time.
    if not target.better:
        chance = f"p = {target.p_value:.2g}, below {SIGNIFICANCE} needed"
        reasons.append(f"{target.task} is not better than the base beyond chance ({chance})")
    if target.majority is not None and not target.majority.better:
        majority = f"{target.majority.value:.1%}, p = {target.majority.p_value:.2g}"
        reasons.append(f"{target.task} is not better than always {target.majority.answer!r} beyond chance ({majority})")
    return reasons + [f"the check {check.name} failed" for check in checks if check.passed is False]


def best_on_test(checkpoints: Sequence[Checkpoint], metric: str = "accuracy") -> BestOnTest | None:
    """Return the checkpoint with the best test value (the earliest, if tied), or None unless all were tested.

    >>> best_on_test([Checkpoint(name="step-1", step=1, value=0.5), Checkpoint(name="step-2", step=2, value=0.4)])
    BestOnTest(checkpoint='step-1', value=0.5, score=None)
    >>> best_on_test([Checkpoint(name="step-1", step=1, value=0.5), Checkpoint(name="step-2", step=2)])
    """
    # The contest took the best of all checkpoints of a team; the best of only some could be a different one.
    tested = [(point.value, point) for point in checkpoints if point.value is not None]
    if not tested or len(tested) < len(checkpoints):
        return None
    value, best = max(tested, key=lambda pair: (goodness(metric, pair[0]), -pair[1].step))
    return BestOnTest(checkpoint=best.name, value=value, score=best.score)


def write_scorecard(path: Path, card: Scorecard) -> None:
    """Write the scorecard as JSON."""
    write_json(path, card.model_dump(mode="json"))


def read_scorecard(path: Path) -> Scorecard:
    """Read the scorecard of a run's folder. Raises: RunError if the file is missing or damaged."""
    recipe = path.parent / "recipe.yaml"
    try:
        card = Scorecard.model_validate(read_json(path))
        steps = tuple(step.model_copy(update={"recipe": recipe}) for step in card.next_steps)
        return card.model_copy(update={"next_steps": steps})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RunError(str(path), f"is not a scorecard: {key}: {first['msg']}", remedy="run evaluate again") from None


def _retention_reason(line: RetentionMetric) -> str:
    if line.retained is None:
        return f"{line.task} {line.metric}: not measurable, the base has {line.base:.2f} points"
    return f"{line.task} {line.metric}: {line.retained:.1%} of the base kept, {line.threshold:.0%} needed"
