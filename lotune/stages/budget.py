"""The budget of an adapter (adapter.budget): how many parameters it may have, and whether it keeps within them."""

from __future__ import annotations

from lotune.errors import SettingsError
from lotune.evaluate.parameter_ratio import count_adapter, ratio_denominator
from lotune.model.known_bases import KnownBase, known_base
from lotune.model.loading import meta_model
from lotune.model.methods.registry import METHODS
from lotune.model.settings import AdapterSettings
from lotune.recipe import Recipe
from lotune.settings import is_auto


def allowed_parameters(recipe: Recipe) -> int | None:
    """Return the largest number of parameters that the adapter of a recipe may have; None without a budget."""
    return None if recipe.adapter.budget is None else _allowed(recipe, known_base(recipe.base.model))


def require_budget(recipe: Recipe) -> None:
    """Raise SettingsError if the adapter of a recipe has more parameters than its budget; load no weights.

    Where the setting that decides the number is "auto", the smallest adapter is compared.
    """
    fault = budget_fault(recipe)
    if fault is not None:
        raise fault


def budget_fault(recipe: Recipe) -> SettingsError | None:
    """Return the error about an adapter that has more parameters than its budget; None if it has not."""
    budget, adapter = recipe.adapter.budget, recipe.adapter
    if budget is None:
        return None
    base = known_base(recipe.base.model)
    allowed, count = _allowed(recipe, base), _count(recipe, adapter, base)
    if count <= allowed:
        return None
    convention = recipe.score.base_total
    total = ratio_denominator(base.shape.total, convention)
    found = f"the adapter has {count:,} parameters{_size(adapter)}, {count / total:.6g} of the {total:,} of the base"
    expected = f"at most {allowed:,}, which is {budget:g} by score.base_total={convention}"
    return SettingsError("adapter.budget", found, expected, _remedy(recipe, base, allowed))


def _allowed(recipe: Recipe, base: KnownBase) -> int:
    assert recipe.adapter.budget is not None
    # A budget written as 0.0005 is meant as that decimal number, not as the binary one next to it.
    return int(round(recipe.adapter.budget * ratio_denominator(base.shape.total, recipe.score.base_total), 6))


def _count(recipe: Recipe, adapter: AdapterSettings, base: KnownBase) -> int:
    """Return the number of parameters of an adapter, with the smallest size where that is "auto"."""
    if adapter.init_from is not None:
        return count_adapter(adapter.init_from).trainable
    method = METHODS[adapter.method]
    if method.size_setting is not None and is_auto(getattr(adapter, method.size_setting)):
        adapter = adapter.model_copy(update={method.size_setting: 1})
    if method.count_on_shape is not None:
        return method.count_on_shape(adapter, base.shape)
    return method.parameter_count(adapter, meta_model(recipe.base))


def _size(adapter: AdapterSettings) -> str:
    """Return the size of an adapter in words, such as " (rank 16)"."""
    name = METHODS[adapter.method].size_setting
    if name is None or adapter.init_from is not None:
        return ""
    value = getattr(adapter, name)
    return f" ({name} {1 if is_auto(value) else value})"


def _remedy(recipe: Recipe, base: KnownBase, allowed: int) -> str:
    """Return which size of the adapter keeps within the budget."""
    adapter = recipe.adapter
    if adapter.init_from is not None:
        return "raise the budget, or start from a smaller adapter"
    name = METHODS[adapter.method].size_setting
    if name is None:
        fewer = "tune fewer modules" if hasattr(adapter, "target_modules") else "adapter.method=lora"
        return f"raise the budget, or {fewer}"
    each = _count(recipe, adapter.model_copy(update={name: 1}), base)
    if allowed < each:
        fewer = ", or tune fewer modules" if hasattr(adapter, "target_modules") else ""
        return f"no {name} fits: one of 1 has {each:,} parameters; raise the budget{fewer}"
    largest = allowed // each
    return f"adapter.{name}={largest} fits, with {largest * each:,} parameters"
