"""The number formats of a run are kept: a training goes on in its own, and base and tuned model answer in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.model.dtype_benchmark import DtypeDecision
from lotune.stages import tuning


def decides(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Make this the machine on which trainings are faster in a format."""
    result = DtypeDecision(dtype, f"faster in {dtype}", {"float32": 1.0})  # type: ignore[arg-type]
    monkeypatch.setattr("lotune.model.dtype_benchmark.choose_training_dtype", lambda *_, **__: result)


@pytest.fixture
def recipe(small_base: Path, tmp_path: Path) -> Path:
    file = tmp_path / "kept.yaml"
    file.write_text(RECIPE.format(base=small_base).replace(", dtype: float32", ""))
    return file


def card_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "scorecard.json").read_text())
    return result


def test_a_training_resumes_in_its_dtype_on_another_machine(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, folder = (recipe, f"runs={tmp_path}", "save_every_minutes=0"), tmp_path / "kept"
    decides(monkeypatch, "bfloat16")
    checkpoint, asked = tuning._validate, []

    def stopped(*arguments: Any) -> Any:
        checkpoint(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_validate", stopped)
    begun = call("run", *words, status=130)
    assert "tuning computes in bfloat16: faster in bfloat16" in begun.stderr
    stored = json.loads((folder / "dtypes.json").read_text())
    assert stored["tuning"] == {"dtype": "bfloat16", "why": "faster in bfloat16", "figures": {"float32": 1.0}}
    assert stored["answers"]["dtype"] == "float32"

    monkeypatch.setattr(tuning, "_validate", checkpoint)
    decides(monkeypatch, "float32")
    ask = tuning.run_predictions

    def requested(job: Any, *rest: Any) -> Any:
        asked.append(job.answering.model.dtype)
        return ask(job, *rest)

    monkeypatch.setattr(tuning, "run_predictions", lambda what, *rest: requested(what, *rest))
    gone_on = call("run", *words)
    assert "tuning computes in bfloat16, in which this run began" in gone_on.stderr
    assert "resuming after step" in gone_on.stderr
    assert {str(dtype) for dtype in asked} == {"torch.float32"}, "validated as it is evaluated"
    card = card_of(folder)
    assert {"tuned in bfloat16", "answered on cpu in float32"} <= set(card["notes"])
    assert card["asked_alone"] == []
    merge = next(check for check in card["checks"] if check["name"] == "merge")
    assert "rounding to bfloat16" in merge["detail"]

    before = (folder / "scorecard.json").read_bytes()
    assert "changed:" not in call("run", *words).stderr
    assert (
        "nothing finished depends on it" in call("run", *words, "base.dtype=bfloat16", "evaluate.dtype=float32").stderr
    )
    assert (folder / "scorecard.json").read_bytes() == before, "a format that is named is the one that was kept"


@pytest.mark.slow
def test_rows_in_a_reduced_dtype_are_generated_again_alone(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, folder = (recipe, f"runs={tmp_path}"), tmp_path / "kept"
    decides(monkeypatch, "float32")
    call("run", *words)
    output = call("run", *words, "evaluate.dtype=bfloat16").stderr
    assert 'changed: evaluate.dtype: "float32" -> "bfloat16" (invalidates merge, evaluate)' in output
    card = card_of(folder)
    results = [(item["model"], item["set"], item["dtype"], item["rows"]) for item in card["asked_alone"]]
    chosen = card["chosen_checkpoint"]
    assert results == [
        (name, part, "bfloat16", n) for name in ("base", chosen) for part, n in (("test", 6), ("retention", 4))
    ]
    texts = [item["texts"] for item in card["asked_alone"]]
    assert f"base, test: 6 rows generated again alone in bfloat16: {texts[0]} texts" in " ".join(card["notes"])
    for page in ("report.html", "report.md"):
        assert "rows generated again alone in bfloat16" in (folder / page).read_text()
    assert "answering in bfloat16 changes" in next(item["detail"] for item in card["checks"] if item["name"] == "merge")
