"""adapter.budget: refused before the weights are loaded, with the size that fits; kept by what is auto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.errors import SettingsError
from lotune.model.methods.registry import adapter_settings
from lotune.recipe import Recipe
from lotune.stages.budget import allowed_parameters, budget_fault, require_budget

EACH = 2 * ((32 + 32) + (32 + 16))
"""Parameters of rank 1 on queries and values of the small base."""
TOTAL = 31_392
"""Parameters of the small base."""


def recipe(base: str, budget: float | None, convention: str = "measured", **adapter: Any) -> Recipe:
    values = {"base": {"model": base}, "score": {"base_total": convention}, "adapter": {"budget": budget, **adapter}}
    return Recipe.model_validate(values)


def test_the_largest_rank_that_fits_is_named(small_base: Path) -> None:
    budget = 5 * EACH / TOTAL
    assert allowed_parameters(recipe(str(small_base), budget)) == 5 * EACH
    assert budget_fault(recipe(str(small_base), budget, rank=5)) is None
    with pytest.raises(SettingsError) as caught:
        require_budget(recipe(str(small_base), budget, rank=6))
    assert "the adapter has 1,344 parameters (rank 6), 0.0428135 of the 31,392 of the base" in str(caught.value)
    assert caught.value.remedy == "adapter.rank=5 fits, with 1,120 parameters"
    require_budget(recipe(str(small_base), None, rank=600))


def test_no_rank_fits() -> None:
    fault = budget_fault(recipe("nano", 0.0001, rank=8))
    assert fault is not None
    assert fault.remedy.startswith("no rank fits: one of 1 has")
    assert "tune fewer modules" in fault.remedy
    # The smallest rank of all is compared where the rows decide.
    assert budget_fault(recipe("nano", 0.0001)) is not None
    assert budget_fault(recipe("nano", 0.01)) is None


@pytest.mark.parametrize(("convention", "fits"), [("measured", True), ("llama3-8b", False)])
def test_the_convention_of_the_total_counts(convention: str, fits: bool) -> None:
    budget = 3_407_872 / 8_030_200_000  # between both totals
    fault = budget_fault(recipe("meta-llama/Meta-Llama-3-8B", budget, convention, rank=8))
    assert (fault is None) == fits
    if fault is not None:
        assert "score.base_total=llama3-8b" in fault.expected
        assert "0.000424393 of the 8,030,000,000" in fault.found
        assert fault.remedy == "adapter.rank=7 fits, with 2,981,888 parameters"


def test_another_method_has_its_own_formula() -> None:
    fault = budget_fault(recipe("gpt2", 0.0001, method="prompt_tuning", num_virtual_tokens=20))
    assert fault is not None
    assert "(num_virtual_tokens 20)" in fault.found
    assert fault.remedy == f"adapter.num_virtual_tokens=16 fits, with {16 * 768:,} parameters"
    assert budget_fault(recipe("gpt2", 0.0001, method="prompt_tuning", num_virtual_tokens=16)) is None


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, "much"])
def test_budgets_that_cannot_be(budget: object) -> None:
    with pytest.raises(ValueError, match="budget"):
        adapter_settings("lora", budget=budget)


@pytest.fixture
def file(small_base: Path, tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(RECIPE.format(base=small_base) + f"runs: {tmp_path}\n")
    return tmp_path / "own.yaml"


@pytest.mark.parametrize("words", [("run",), ("run", "--dry-run"), ("tune",), ("tune", "--dry-run"), ("prepare",)])
def test_a_larger_adapter_is_refused_before_any_work(words: tuple[str, ...], file: Path, tmp_path: Path) -> None:
    verb, *options = words
    error = call(verb, file, "adapter.rank=9", "adapter.budget=0.05", *options, status=2).stderr
    assert error.startswith("adapter.budget: the adapter has 2,016 parameters (rank 9)")
    assert error.splitlines()[-1] == "remedy: adapter.rank=7 fits, with 1,568 parameters"
    assert not (tmp_path / "own").exists()


@pytest.mark.slow
def test_auto_keeps_within_the_budget_and_a_smaller_one_asks_for_another_rank(file: Path, tmp_path: Path) -> None:
    words = ("tune", file, "adapter.rank=auto", "checkpoints.count=1", "retention.validation_rows=0")
    settings = tmp_path / "own" / "auto_settings.json"

    def rank(*more: str) -> tuple[int, str]:
        call(*words, *more)
        choice = json.loads(settings.read_text())["settings"]["adapter.rank"]
        return choice["value"], choice["why"]

    value, why = rank(f"adapter.budget={5.5 * EACH / TOTAL}")
    assert (value, why) == (5, "1,120 parameters, as many as adapter.budget allows")
    first = (tmp_path / "own" / "training.json").stat().st_mtime_ns
    assert rank("adapter.budget=0.5")[0] == 5  # a larger budget changes nothing
    assert (tmp_path / "own" / "training.json").stat().st_mtime_ns == first
    assert rank(f"adapter.budget={3 * EACH / TOTAL}")[0] == 3
    assert json.loads((tmp_path / "own" / "training.json").read_text())["trainable"] == 3 * EACH


def test_a_saved_adapter_is_counted_by_its_tensors(small_base: Path, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"x.lora_A.weight": np.zeros((10, 32), "float32")}, str(tmp_path / "adapter_model.safetensors"))
    fault = budget_fault(recipe(str(small_base), 319 / TOTAL, init_from=str(tmp_path)))
    assert fault is not None
    assert "320 parameters, " in fault.found
    assert "smaller adapter" in fault.remedy
    assert budget_fault(recipe(str(small_base), 320 / TOTAL, init_from=str(tmp_path))) is None
