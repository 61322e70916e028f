"""The audit of an adapter: what is predicted, measured and claimed, side by side, and where it contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lotune.errors import ModelError
from lotune.evaluate.adapter_layout import AdapterLayout, describe_modules, lora_layout
from lotune.evaluate.audit_claims import Claim, conventions
from lotune.evaluate.explanations import Explanation, explain
from lotune.evaluate.merged_difference import TensorDifference
from lotune.model.known_bases import KnownBase
from lotune.model.methods.target_names import matching_names

Kind = Literal["adapter", "merged", "configuration"]


@dataclass(frozen=True)
class Evidence:
    """What an audit compares: the layout that a configuration predicts, the one measured on tensors, and the claim."""

    target: str
    kind: Kind
    base: KnownBase | None
    predicted: AdapterLayout | None
    measured: AdapterLayout | None
    claim: Claim
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """Contradictions that were found while measuring."""
    differences: tuple[TensorDifference, ...] = ()

    @property
    def facts(self) -> tuple[str, AdapterLayout] | None:
        """What a claim is compared with, and its name: the tensors, or else the configuration."""
        if self.measured is not None:
            return "the tensors", self.measured
        return None if self.predicted is None else ("the configuration", self.predicted)

    @property
    def modules(self) -> Mapping[str, object]:
        """The full names of the modules that an adapter could change, as far as they are known."""
        if self.base is not None:
            return self.base.shape.linear
        return {**(self.predicted.ranks if self.predicted else {}), **(self.measured.ranks if self.measured else {})}


@dataclass(frozen=True)
class Figures:
    """What a configuration, tensors or a claim say: ranks, layers, modules, parameters; None is unsaid."""

    ranks: tuple[int, ...] | None
    targets: tuple[str, ...] | None
    modules: int | None
    parameters: int | None


@dataclass(frozen=True)
class Ratio:
    """The ratio of trained parameters by one convention of the total; 0 to 1."""

    convention: str
    total: int
    predicted: float | None
    measured: float | None
    claimed: float | None
    fits_claimed_ratio: bool | None
    """Whether the claimed ratio, if there is one, is that of the measured or else the predicted parameters."""


@dataclass(frozen=True)
class BaseFigures:
    """A base: name, where its shape comes from, number of parameters."""

    name: str
    source: str
    parameters: int


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    target: str
    kind: Kind
    base: BaseFigures | None
    predicted: Figures | None
    measured: Figures | None
    claimed: Figures | None
    claimed_ratio: str | None
    ratios: tuple[Ratio, ...]
    explanations: tuple[Explanation, ...]
    contradictions: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[TensorDifference, ...] = field(default=())


def audit_evidence(evidence: Evidence) -> Audit:
    """Return the audit of what was read and measured.

    Raises: ModelError if claimed layers do not exist in the base.
    """
    base, claim = evidence.base, evidence.claim
    return Audit(
        evidence.target,
        evidence.kind,
        None if base is None else BaseFigures(base.name, base.source, base.shape.total),
        _figures(evidence.predicted, evidence.modules),
        _figures(evidence.measured, evidence.modules),
        _claimed_figures(evidence),
        None if claim.ratio is None else claim.ratio.text,
        tuple(_ratios(evidence)),
        tuple(_explanations(evidence)),
        (*evidence.faults, *contradictions(evidence)),
        evidence.notes,
        evidence.differences,
    )


def contradictions(evidence: Evidence) -> Iterator[str]:
    """Yield in plain words where prediction, measurement and claim contradict each other."""
    predicted, measured = evidence.predicted, evidence.measured
    if predicted is not None and measured is not None:
        yield from _between_configuration_and_tensors(predicted, measured, evidence.modules)
    yield from _about_rank(evidence)
    yield from _about_targets(evidence)
    yield from _about_count(evidence)
    yield from _about_ratio(evidence)


def _between_configuration_and_tensors(
    predicted: AdapterLayout, measured: AdapterLayout, modules: Mapping[str, object]
) -> Iterator[str]:
    if predicted.ranks.keys() != measured.ranks.keys():
        configured, found = (_modules_text(layout.ranks, modules) for layout in (predicted, measured))
        yield f"the configuration adapts {configured}, the tensors adapt {found}"
    elif predicted.rank_values != measured.rank_values:
        yield f"the configuration says {_rank_text(predicted)}, the tensors have {_rank_text(measured)}"
    elif dict(predicted.ranks) != dict(measured.ranks):
        other = next(name for name, rank in predicted.ranks.items() if measured.ranks[name] != rank)
        yield f"the configuration gives {other} rank {predicted.ranks[other]}, its tensors have {measured.ranks[other]}"
    elif None not in (predicted.count, measured.count) and predicted.count != measured.count:
        yield f"the configuration predicts {predicted.count:,} parameters, the tensors have {measured.count:,}"


def _about_rank(evidence: Evidence) -> Iterator[str]:
    claimed = evidence.claim.rank
    if claimed is None or evidence.facts is None:
        return
    source, layout = evidence.facts
    if evidence.kind == "merged":
        yield from _about_merged_rank(evidence, claimed)
    elif layout.rank_values != (claimed,):
        yield f"rank {claimed} is claimed, {source} {_say(source)} {_rank_text(layout)}"


def _about_merged_rank(evidence: Evidence, claimed: int) -> Iterator[str]:
    # The change of a module can have a lower rank than its adapter, but hardly that of every module at once.
    ranks = [
        (one.rank, one.at_most) for one in evidence.differences if one.rank is not None and one.at_most is not None
    ]
    if not ranks:
        yield f"rank {claimed} is claimed, no matrix differs from the base"
        return
    least, at_most = (max(one) for one in zip(*ranks, strict=True))
    if not least <= claimed <= at_most:
        found = f"rank {least}" if least == at_most else f"rank {least} or more"
        yield f"rank {claimed} is claimed, the changes of the weights have {found}"


def _about_targets(evidence: Evidence) -> Iterator[str]:
    if evidence.claim.targets is None or evidence.facts is None:
        return
    source, layout = evidence.facts
    claimed = _claimed_modules(evidence)
    if claimed is None or set(claimed) != set(layout.ranks):
        named = _claimed_text(evidence) if claimed is None else _modules_text(claimed, evidence.modules)
        adapt = "change" if evidence.kind == "merged" else "adapt"
        found = _modules_text(layout.ranks, evidence.modules) or "none"
        yield f"layers {named} are claimed, {source} {adapt}{'s' if _is_singular(source) else ''} {found}"


def _about_count(evidence: Evidence) -> Iterator[str]:
    count, facts = evidence.claim.count, evidence.facts
    if count is None:
        return
    told = set()
    if facts is not None and facts[1].count is not None and facts[1].count != count:
        source, layout = facts
        told.add(layout.count)
        what = f"{_rank_text(layout)} on {_modules_text(layout.ranks, evidence.modules)}" if layout.ranks else source
        has = f"{what} has {layout.count:,}" if layout.ranks else f"{source} {_say(source)} {layout.count:,}"
        hint = _rank_hint(evidence, layout.ranks, count) if evidence.claim.targets is None else ""
        yield f"{count:,} parameters are claimed, {has}{hint}"
    claimed = _claimed_layout(evidence)
    if claimed is not None and claimed.count not in (count, *told):
        named = _modules_text(claimed.ranks, evidence.modules)
        hint = _rank_hint(evidence, claimed.ranks, count)
        yield f"{count:,} parameters are claimed, rank {evidence.claim.rank} on {named} has {claimed.count:,}{hint}"


def _about_ratio(evidence: Evidence) -> Iterator[str]:
    ratio = evidence.claim.ratio
    if ratio is None:
        return
    counts = {evidence.facts[1].count} if evidence.facts is not None else set()
    totals = conventions(None if evidence.base is None else evidence.base.shape.total)
    for count in sorted(one for one in {*counts, evidence.claim.count} if one is not None):
        if not any(ratio.fits(count, total) for total in totals.values()):
            own = ", ".join(f"{count / total:.9g} ({name}: of {total:,})" for name, total in totals.items())
            yield f"ratio {ratio.text} is claimed, {count:,} parameters are {own}"


def _rank_hint(evidence: Evidence, modules: Mapping[str, int], count: int) -> str:
    """Return which rank on the same modules has the claimed number of parameters, if one has."""
    if evidence.base is None or not modules or not modules.keys() <= evidence.base.shape.linear.keys():
        return ""
    each = sum(sum(evidence.base.shape.linear[name]) for name in modules)
    return "" if count % each else f"; {count:,} is rank {count // each} on these layers"


def _claimed_modules(evidence: Evidence) -> dict[str, int] | None:
    """Return the claimed modules, with their claimed rank or 0; None if an adapter of an unknown base lacks some."""
    claim = evidence.claim
    assert claim.targets is not None
    if evidence.base is not None:
        return dict.fromkeys(evidence.base.shape.targets(claim.targets), claim.rank or 0)
    try:
        return dict.fromkeys(matching_names(list(evidence.modules), claim.targets), claim.rank or 0)
    except ModelError:
        return None


def _claimed_layout(evidence: Evidence) -> AdapterLayout | None:
    claim = evidence.claim
    if evidence.base is None or claim.rank is None or claim.targets is None:
        return None
    return lora_layout(evidence.base.shape, claim.targets, claim.rank)


def _figures(layout: AdapterLayout | None, modules: Mapping[str, object]) -> Figures | None:
    if layout is None:
        return None
    targets = tuple(describe_modules(layout.ranks, modules))
    return Figures(layout.rank_values, targets, len(layout.ranks), layout.count)


def _claimed_figures(evidence: Evidence) -> Figures | None:
    claim = evidence.claim
    if (claim.rank, claim.targets, claim.count) == (None, None, None):
        return None
    modules = None if claim.targets is None else _claimed_modules(evidence)
    targets: tuple[str, ...] | None = None if claim.targets is None else (_claimed_text(evidence),)
    if modules is not None:
        targets = tuple(describe_modules(modules, evidence.modules))
    ranks = None if claim.rank is None else (claim.rank,)
    return Figures(ranks, targets, None if modules is None else len(modules), claim.count)


def _ratios(evidence: Evidence) -> Iterator[Ratio]:
    counts = [None if layout is None else layout.count for layout in (evidence.predicted, evidence.measured)]
    claim, facts = evidence.claim, counts[1] if counts[1] is not None else counts[0]
    facts = claim.count if facts is None else facts
    if evidence.base is None and claim.ratio is None and claim.count is None:
        return
    for name, total in conventions(None if evidence.base is None else evidence.base.shape.total).items():
        of_each = [None if count is None else count / total for count in (*counts, claim.count)]
        fits = None if claim.ratio is None or facts is None else claim.ratio.fits(facts, total)
        yield Ratio(name, total, of_each[0], of_each[1], of_each[2], fits)


def _explanations(evidence: Evidence) -> Iterator[Explanation]:
    base, claim, measured = evidence.base, evidence.claim, evidence.measured
    if base is None:
        return
    if measured is not None and measured.count is not None and measured.ranks:
        yield explain(base.shape, "measured", measured.count)
    if claim.count is not None and (measured is None or measured.count != claim.count):
        yield explain(base.shape, "claimed", claim.count)
    elif claim.count is None and claim.ratio is not None:
        for name, total in conventions(base.shape.total).items():
            low, high = claim.ratio.counts(total)
            yield explain(base.shape, f"claimed ratio by {name}", max(1, low), high)


def _rank_text(layout: AdapterLayout) -> str:
    ranks = layout.rank_values
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks))}" if ranks else "no LoRA"


def _modules_text(ranks: Mapping[str, int], modules: Mapping[str, object]) -> str:
    return ", ".join(describe_modules(ranks, modules))


def _claimed_text(evidence: Evidence) -> str:
    targets = evidence.claim.targets
    return targets if isinstance(targets, str) else ", ".join(targets or [])


def _is_singular(source: str) -> bool:
    return not source.endswith("s")


def _say(source: str) -> str:
    return "has" if _is_singular(source) else "have"
