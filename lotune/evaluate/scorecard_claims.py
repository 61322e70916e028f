"""The claims of a scorecard: what a reader wants to know of a result, each passed, failed or not applicable.

Unlike the checks they decide nothing by themselves: those that make a result not valid are among its reasons already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lotune.evaluate.last_training import TrainingName
from lotune.evaluate.retention import RetentionMetric, gate_passed
from lotune.evaluate.scorecard import Check, Target
from lotune.train.schedule import checkpoint_steps

TEMPLATE, MERGE, OVERLAP, GATE, GAIN, BUDGET, SPACING = (
    "one template", "merge", "overlap", "gate", "gain", "budget", "spacing",
)  # fmt: skip
"""Names of the claims, in the order of the scorecard."""


def template_claim(evaluated: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]) -> Check:
    """Return whether the checkpoints carry the prompt template that they were evaluated with.

    `stored` holds the content of each template file by its place, such as "step-000100/merged".

    >>> template_claim({"name": "qa"}, {"step-1/adapter": {"name": "qa"}}).detail
    "template 'qa' in 1 folders and in the evaluation"
    """
    if not stored:
        return Check(name=TEMPLATE, passed=None, detail="no checkpoint carries a prompt template")
    others = [place for place, record in stored.items() if dict(record) != dict(evaluated)]
    if others:
        names = f"{others[0]} carries {stored[others[0]].get('name')!r}, the evaluation used {evaluated.get('name')!r}"
        more = f" ({len(others)} of {len(stored)} folders differ)" if len(others) > 1 else ""
        return Check(name=TEMPLATE, passed=False, detail=names + more)
    detail = f"template {evaluated.get('name')!r} in {len(stored)} folders and in the evaluation"
    return Check(name=TEMPLATE, passed=True, detail=detail)


def merge_claim(checks: Sequence[Check], mergeable: bool) -> Check:
    """Return whether every merged model computes what its adapter does; `checks` are those of the merge check.

    >>> merge_claim([], mergeable=False).result
    'not applicable'
    """
    if not checks:
        reason = "no checkpoint was merged" if mergeable else "adapters of this method cannot be merged"
        return Check(name=MERGE, passed=None, detail=f"{reason}; the answers are those of the adapter")
    failed = [check for check in checks if not check.passed]
    detail = failed[0].detail if failed else f"{len(checks)} merged models compute what their adapters do"
    return Check(name=MERGE, passed=not failed, detail=detail)


def overlap_claim(found: Mapping[str, int] | None, rows: Mapping[str, int], removed: int) -> Check:
    """Return whether no evaluation row is among the training rows.

    `found` counts, by set, its rows whose prompt is that of a training row; None if the training rows are gone. `rows`
    are the sizes of the sets, and `removed` the training rows that were removed because a set contained them.
    """
    if found is None:
        return Check(name=OVERLAP, passed=None, detail="the tokens of the training rows are not there to compare with")
    searched = ", ".join(f"{count:,} {name} rows" for name, count in rows.items())
    if any(found.values()):
        sets = ", ".join(f"{count} of {rows[name]:,} {name} rows" for name, count in found.items() if count)
        return Check(name=OVERLAP, passed=False, detail=f"{sets} are training rows, too")
    before = f"; {removed:,} training rows had been removed for it" if removed else ""
    return Check(name=OVERLAP, passed=True, detail=f"none of {searched} is a training row{before}")


def gate_claim(retention: Sequence[RetentionMetric]) -> Check:
    """Return whether every gated metric kept what it had to."""
    gated = [line for line in retention if line.is_gated]
    if not gated:
        return Check(name=GATE, passed=None, detail="no ability is gated")
    kept = ", ".join(
        f"{line.task} {line.metric} {'not measurable' if line.retained is None else f'{line.retained:.1%} kept'}"
        for line in gated
    )
    return Check(name=GATE, passed=gate_passed(retention), detail=f"{kept}; {gated[0].threshold:.0%} needed")


def gain_claim(target: Target) -> Check:
    """Return whether the target is better than the base's, beyond chance."""
    detail = f"{target.gained} rows gained, {target.lost} lost, one-sided p = {target.p_value:.2g}"
    return Check(name=GAIN, passed=target.better, detail=detail)


def budget_claim(budget: float | None, ratio: float) -> Check:
    """Return whether the trained parameters keep within a budget, a fraction of those of the base.

    >>> budget_claim(None, 0.001).result, budget_claim(0.0005, 0.001).result
    ('not applicable', 'failed')
    """
    if budget is None:
        return Check(name=BUDGET, passed=None, detail="the recipe sets no budget of parameters")
    return Check(name=BUDGET, passed=ratio <= budget, detail=f"ratio {ratio:.6g}, {budget:.6g} at most")


def spacing_claim(found: Sequence[int], steps: int, training: TrainingName = "tuning") -> Check:
    """Return whether the i-th of N checkpoints of a training follows round(i · steps / N) steps, halves rounded up.

    >>> spacing_claim([4, 7], 7)
    Check(name='spacing', passed=True, detail='after 4, 7 of 7 steps')
    """
    whose = " of the repair" if training == "repair" else ""
    detail = f"after {', '.join(map(str, found))} of {steps} steps{whose}"
    expected = checkpoint_steps(steps, len(found)) if 0 < len(found) <= steps else []
    if expected and list(found) == expected:
        return Check(name=SPACING, passed=True, detail=detail)
    even = f", evenly spaced would be {', '.join(map(str, expected))}" if expected else ""
    return Check(name=SPACING, passed=False, detail=detail + even)
