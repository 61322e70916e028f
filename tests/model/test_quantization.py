"""A base in 8 or 4 bit: a plain model with its rounded weights computes the same, and a run merges into that one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import RECIPE, call

from lotune.model.loading import count_parameters, load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.quantization import QUANTIZATION_LIBRARIES, is_quantized, load_dequantized, load_quantized
from lotune.model.settings import BaseSettings

KINDS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed"),
    )
    for kind, library in QUANTIZATION_LIBRARIES.items()
]
pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of which there are many
IDS = torch.tensor([[5, 9, 30, 44, 100, 7, 8, 9, 300, 321]])


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_the_dequantised_model_computes_the_same_as_the_quantised_one(small_base: Path, kind: Any) -> None:
    from lotune.model.checkpoints import init_adapter

    settings = BaseSettings(model=str(small_base), dtype="float32")
    original, held = load_model(settings, "cpu"), load_quantized(settings, "cpu", kind)
    plain = load_dequantized(settings, "cpu", kind)
    with torch.no_grad():
        logits = [base.model(IDS).logits for base in (original, held, plain)]
    assert (logits[1] - logits[2]).abs().max() < 1e-4
    assert (logits[0] - logits[2]).abs().max() > 1e-2, "nothing was rounded"
    assert count_parameters(held.model) == count_parameters(original.model)
    head: Any = held.model.get_output_embeddings()
    assert not is_quantized(head.weight)
    adapted: Any = init_adapter(held, LoraSettings(rank=2, target_modules="all-linear"), 0)
    adapted(IDS, labels=IDS).loss.backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert all(adapted.get_parameter(name).dtype == torch.float32 for name in trained)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_a_quantised_base(small_base: Path, tmp_path: Path, kind: str) -> None:
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    call("run", recipe, f"runs={tmp_path}", f"tune.quantization={kind}")
    card = json.loads((tmp_path / "mini" / "scorecard.json").read_text())
    plain = sum(p.numel() for p in load_model(BaseSettings(model=str(small_base)), "cpu").model.parameters())
    assert card["parameters"]["total"] == plain
    assert json.loads((tmp_path / "mini" / "tuning.json").read_text())["total"] == plain
    merged = tmp_path / "mini" / "checkpoints" / card["chosen_checkpoint"] / "merged"
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())


HELD_BACK = """
import sys, warnings
import torch
from lotune.model.optional_libraries import HIDDEN, hide_optional_libraries
hide_optional_libraries()
warnings.simplefilter("ignore")
from lotune.model.loading import load_model
from lotune.model.checkpoints import init_adapter
from lotune.model.quantization import is_quantized, load_quantized
from lotune.model.methods.lora import LoraSettings
from lotune.model.settings import BaseSettings
settings = BaseSettings(model=sys.argv[1], dtype="float32")
init_adapter(load_model(settings, "cpu"), LoraSettings(rank=2), 0)
assert not any(sys.modules.get(name) for name in HIDDEN)
for kind in sys.argv[2:]:
    held = load_quantized(settings, "cpu", kind)
    assert any(is_quantized(weight) for weight in held.model.parameters())
    adapted = init_adapter(held, LoraSettings(rank=2), 0)
    adapted(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
"""


@pytest.mark.slow
def test_libraries_that_a_command_holds_back_are_let_in_for_a_quantised_base(small_base: Path) -> None:
    kinds = [kind for kind, library in QUANTIZATION_LIBRARIES.items() if importlib.util.find_spec(library) is not None]
    command = [sys.executable, "-c", HELD_BACK, str(small_base), *kinds]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr


def test_a_library_that_is_not_there_is_named(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    monkeypatch.setattr("lotune.model.quantization.find_spec", lambda name: None)
    output = call("tune", recipe, f"runs={tmp_path}", "tune.quantization=4bit", status=2).stderr
    assert "4bit weights need bitsandbytes" in output
    assert "pip install '.[quantize]'" in output
