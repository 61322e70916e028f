"""The method of docs/how-to/add-a-method.md works as the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lotune.evaluate.parameter_ratio import count_adapter
from lotune.model.adapters import add_adapter, trainable_count
from lotune.model.checkpoints import load_adapter, merge, save_adapter
from lotune.model.loading import LoadedModel, load_model
from lotune.model.methods import registry
from lotune.model.settings import BaseSettings

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-method.md"


def test_the_method_of_the_page(
    base: LoadedModel, tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert match is not None
    module = ModuleType("ia3_of_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(match[1], str(PAGE), "exec"), vars(module))
    method = vars(module)["IA3"]
    monkeypatch.setitem(registry.METHODS, method.name, method)  # type: ignore[arg-type]
    settings, before = method.settings(target_modules=["k_proj"]), base.model(tokens).logits
    model: Any = add_adapter(base.model, settings, seed=0)
    assert torch.equal(model(input_ids=tokens).logits, before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5 if parameter.requires_grad else 1)
    expected = model(input_ids=tokens).logits
    save_adapter(model, tmp_path / "adapter")
    assert trainable_count(model) == count_adapter(tmp_path / "adapter").trainable == 2 * 16
    fresh = load_model(BaseSettings(model=base.name, dtype="float32"), "cpu")
    assert method.parameter_count(settings, fresh.model) == 2 * 16
    torch.testing.assert_close(merge(fresh, tmp_path / "adapter")(tokens).logits, expected, rtol=0, atol=1e-4)
    assert torch.equal(load_adapter(fresh, tmp_path / "adapter")(input_ids=tokens).logits, expected)
