"""`lotune audit`: compare what is said about an adapter with its configuration and its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.errors import ModelError, SettingsError
from lotune.evaluate.adapter_layout import AdapterLayout, lora_layout
from lotune.evaluate.adapter_tensors import WEIGHTS, measure_adapter, misfits
from lotune.evaluate.audit import Audit, Evidence, audit_evidence
from lotune.evaluate.audit_claims import Claim
from lotune.evaluate.merged_difference import Comparison, compare_checkpoints, merged_ranks
from lotune.evaluate.peft_configuration import PeftConfiguration, peft_layout, read_peft_configuration
from lotune.model.convert.mindformers import is_mindformers, load_bounded_yaml, read_mindformers
from lotune.model.known_bases import KnownBase, known_base
from lotune.model.methods.lora import LEAST_RANK
from lotune.model.methods.registry import METHODS
from lotune.model.settings import ADAPTER_CONFIG
from lotune.model.weight_files import CONFIG
from lotune.recipe import RunOptions, read_recipe
from lotune.recipes.shipped import recipe_file
from lotune.report.audit import audit_lines
from lotune.settings import is_auto
from lotune.stages.budget import budget_fault
from lotune.text_display import print_visible

TARGETS = "an adapter's folder, a merged model's folder, a recipe, adapter_config.json or a YAML of MindFormers"


NO_BASE = "without a base, neither a number of parameters nor a ratio can be predicted"


def audit(target: str | None, base: str | None, claim: Claim, options: RunOptions) -> Audit:
    """Return the audit of a target, or without one of the configuration that the claim describes; print it.

    Raises: SettingsError or ModelError if target or base cannot be read.
    """
    # Names on the hub have an owner, but for a few old ones: a slip in a name of the catalogue is told at once.
    known = None if base is None else known_base(base, hub="/" in base)
    with _claimed_layers_as_option(claim):
        described = _described(known, claim) if target is None else None
    evidence = _read(target, known, claim) if target is not None else described
    assert evidence is not None
    with _claimed_layers_as_option(claim):
        result = audit_evidence(evidence)
    if not options.json:
        print_visible("\n".join(audit_lines(result)))
    return result


@contextmanager
def _claimed_layers_as_option(claim: Claim) -> Iterator[None]:
    """Name the option in an error about claimed layers that the base lacks."""
    try:
        yield
    except ModelError as error:
        where = error.where if claim.targets is None else "--targets"
        raise ModelError(where, error.found, error.expected, error.remedy) from None


def _described(base: KnownBase | None, claim: Claim) -> Evidence:
    """Return the evidence of a configuration in options: rank and layers predict, count and ratio are the claim."""
    if base is None:
        raise SettingsError("audit", "neither TARGET nor --base", f"{TARGETS}; or --base with --rank and --targets")
    if (claim.rank is None) != (claim.targets is None):
        missing = "--targets" if claim.targets is None else "--rank"
        raise SettingsError("audit", f"no {missing} and no TARGET", "rank and layers of the configuration together")
    predicted = None
    if claim.rank is not None and claim.targets is not None:
        predicted = lora_layout(base.shape, claim.targets, claim.rank)
    return Evidence("", "configuration", base, predicted, None, replace(claim, rank=None, targets=None))


def _read(target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    """Return the evidence of a target. Raises: SettingsError if it is of no known kind."""
    path = Path(target).expanduser()
    path = path.parent if path.name == WEIGHTS and path.is_file() else path
    if path.is_dir():
        return _read_folder(path, target, base, claim)
    path = recipe_file(path)
    readers: dict[str, Callable[[Path, str, KnownBase | None, Claim], Evidence]] = {
        ".json": _read_peft, ".yaml": _read_yaml, ".yml": _read_yaml,
    }  # fmt: skip
    if not path.is_file() or path.suffix not in readers:
        raise SettingsError(target, "does not exist" if not path.exists() else "is of no known kind", TARGETS)
    return readers[path.suffix](path, target, base, claim)


def _read_folder(folder: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    if (folder / ADAPTER_CONFIG).is_file() or any(folder.glob("adapter_model*")):
        return _read_adapter(folder, target, base, claim)
    if (folder / CONFIG).is_file():
        return _read_merged(folder, target, base, claim)
    adapters = sorted(folder.glob("checkpoints/*/adapter"))
    remedy = f"audit one of its adapters, such as {adapters[-1]}" if adapters else "check the path"
    raise ModelError(target, f"holds neither {ADAPTER_CONFIG} nor {CONFIG}", TARGETS, remedy)


def _read_adapter(folder: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    """Return the evidence of a saved adapter: its tensors, and what its configuration predicts if the base is known."""
    measured, shapes, tensors = measure_adapter(folder)
    notes = [
        f"{tensor.name} is a copy that was not trained, and is not counted" for tensor in tensors if not tensor.counted
    ]
    predicted = None
    if (folder / ADAPTER_CONFIG).is_file():
        config = read_peft_configuration(folder / ADAPTER_CONFIG)
        base, more = _implied_base(config.base_model_name_or_path, base)
        predicted, more = (None, [*more, NO_BASE]) if base is None else _predicted_beside_tensors(config, base, shapes)
        notes += more
    else:
        notes.append(f"there is no {ADAPTER_CONFIG}, so nothing is predicted")
    faults = misfits(shapes, base.shape) if base is not None and not _is_fused(shapes) else []
    return Evidence(target, "adapter", base, predicted, measured, claim, tuple(notes), tuple(faults))


def _predicted_beside_tensors(
    config: PeftConfiguration, base: KnownBase, shapes: Mapping[str, object]
) -> tuple[AdapterLayout | None, list[str]]:
    """Return what a configuration predicts, or why nothing is; the tensors tell even then."""
    if _is_fused(shapes):
        return None, ["nothing is predicted: the adapter changes layers in which InternLM 2 fuses several (wqkv)"]
    try:
        layout, reason = peft_layout(config, base.shape)
    except ModelError as error:
        layout, reason = None, error.found
    return layout, [f"nothing is predicted: {reason}"] if reason else []


def _is_fused(shapes: Mapping[str, object]) -> bool:
    return any(name.endswith(".wqkv") for name in shapes)


def _read_peft(path: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    base, predicted, notes = _predict(read_peft_configuration(path), base)
    return Evidence(target, "configuration", base, predicted, None, claim, tuple(notes))


def _predict(
    config: PeftConfiguration, base: KnownBase | None
) -> tuple[KnownBase | None, AdapterLayout | None, list[str]]:
    """Return the base of an adapter's configuration, the layout that it predicts, and notes where there is none."""
    base, notes = _implied_base(config.base_model_name_or_path, base)
    if base is None:
        return None, None, [*notes, NO_BASE]
    layout, reason = peft_layout(config, base.shape)
    return base, layout, [*notes, *([f"nothing is predicted: {reason}"] if reason else [])]


def _implied_base(name: str | None, given: KnownBase | None) -> tuple[KnownBase | None, list[str]]:
    """Return the given base, or else the one that a configuration names if it is at hand or in the catalogue."""
    if given is not None or not name:
        return given, [] if given is not None else ["the configuration names no base: --base gives it"]
    try:
        return known_base(name, hub=False), []
    except ModelError:
        return None, [f"the base {name} is neither at hand nor in the catalogue: --base gives it"]


def _read_yaml(path: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    reader = _read_mindformers if is_mindformers(load_bounded_yaml(path)) else _read_recipe
    return reader(path, target, base, claim)


def _read_recipe(path: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    """Return the evidence of a recipe: what its method counts on the base."""
    recipe = read_recipe(path)
    base = base or known_base(recipe.base.model)
    adapter, notes = recipe.adapter, list[str]()
    if adapter.init_from is not None:
        config = read_peft_configuration(adapter.init_from / ADAPTER_CONFIG)
        base, predicted, notes = _predict(config, base)
    elif adapter.method == "lora":
        settings: Any = adapter
        rank = LEAST_RANK if is_auto(settings.rank) else settings.rank
        notes += ["adapter.rank is auto: this is the smallest rank; the rows decide"] if is_auto(settings.rank) else []
        predicted = lora_layout(base.shape, settings.target_modules, rank)
    else:
        count = METHODS[adapter.method].count_on_shape
        predicted = None if count is None else AdapterLayout({}, count(adapter, base.shape))
        notes += [f"there is no formula for {adapter.method} without the model"] if count is None else []
    fault = budget_fault(recipe)
    faults = () if fault is None else (f"adapter.budget: {fault.found}; {fault.expected}",)
    return Evidence(target, "configuration", base, predicted, None, claim, tuple(notes), faults)


def _read_mindformers(path: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    """Return the evidence of a configuration of MindFormers, on the base that it describes unless one is given."""
    tuning = read_mindformers(path)
    if (tuning.method or "").lower() != "lora" or tuning.rank is None or tuning.target_modules is None:
        raise SettingsError(target, "has no LoRA with rank and layers", "model.model_config.pet_config")
    if base is None and tuning.shape is not None:
        base = KnownBase(tuning.catalogued or tuning.architecture, "config.json", tuning.shape)
    if base is None:
        notes = (f"there is no formula for {tuning.architecture or 'a model without type'}: --base gives the base",)
        return Evidence(target, "configuration", None, None, None, claim, notes)
    predicted = lora_layout(base.shape, tuning.target_modules, tuning.rank)
    return Evidence(target, "configuration", base, predicted, None, claim)


def _read_merged(folder: Path, target: str, base: KnownBase | None, claim: Claim) -> Evidence:
    """Return the evidence of a merged model: its differences from its base."""
    if base is None or base.folder is None:
        found = "is a complete model" if base is None else f"is a complete model, and {base.name} is no folder"
        raise SettingsError(target, found, "--base FOLDER, with the weights of its base")
    merged = known_base(str(folder))
    comparison = compare_checkpoints(folder, base.folder, _progress)
    ranks, others = merged_ranks(comparison, base.shape.linear)
    told = all(one.is_told for one in comparison.differences)
    count = sum(rank * sum(base.shape.linear[name]) for name, rank in ranks.items()) if told and not others else None
    notes, faults = _merged_notes(comparison, others, claim)
    if merged.shape.linear.keys() != base.shape.linear.keys():
        faults = [*faults, "merged model and base have other layers"]
    measured = AdapterLayout(ranks, count)
    return Evidence(
        target, "merged", base, None, measured, claim, tuple(notes), tuple(faults), comparison.differences
    )  # fmt: skip


def _merged_notes(comparison: Comparison, others: list[str], claim: Claim) -> tuple[list[str], list[str]]:
    """Return notes and contradictions about the tensors outside linear layers, and those that only one model has."""
    notes = [f"{len(comparison.differences)} of {comparison.tensors} tensors differ from the base"]
    for names, owner in ((comparison.only_merged, "merged model"), (comparison.only_base, "base")):
        notes += [f"tensors that only the {owner} has: {len(names)}, such as {names[0]}"] if names else []
    if not others:
        return notes, []
    number = "1 tensor" if len(others) == 1 else f"{len(others)} tensors"
    found = f"outside the linear layers, the merged model differs in {number}, such as {others[0]}"
    return (notes, [found]) if not claim.is_empty else ([*notes, found], [])


def _progress(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print_status(f"compared {done} of {total} tensors")
