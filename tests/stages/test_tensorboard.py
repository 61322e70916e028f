"""Curves for TensorBoard: what its own reader finds in the files, and what happens without the extra."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import RECIPE, call, invoke


@pytest.fixture
def recipe(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "curves.yaml"
    path.write_text(RECIPE.format(base=small_base).replace("tune: {", "tune: {tensorboard: true, "))
    return path


def curves(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = EventAccumulator(str(folder))
    results.Reload()
    return {tag: {event.step: event.value for event in results.Scalars(tag)} for tag in results.Tags()["scalars"]}


@pytest.mark.slow
def test_the_curves_are_those_of_the_training(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a training that was stopped went on from an earlier state, and after another one began anew."""
    pytest.importorskip("tensorboard", reason="needs pip install '.[tensorboard]'")
    from lotune.stages import tensorboard_curves

    write = tensorboard_curves._write_scalars

    def stopping(writer: Any, step: Any) -> None:
        write(writer, step)
        if step.number == 4:
            raise KeyboardInterrupt

    folder = tmp_path / "runs" / "curves"
    with monkeypatch.context() as patch:
        patch.setattr(tensorboard_curves, "_write_scalars", stopping)
        assert invoke("tune", recipe, "tune.learning_rate=0.03").exit_code == 130
    for rate in (0.03, 0.01):
        call("tune", recipe, f"tune.learning_rate={rate}")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "number" in line]
        assert [line["number"] for line in steps] == [1, 2, 3, 4, 5]
        result = curves(folder / "tensorboard")
        for name in ("loss", "learning_rate", "gradient_norm"):
            assert result[f"train/{name}"] == pytest.approx({line["number"]: line[name] for line in steps})


@pytest.mark.parametrize("verb", ["tune", "run", "prepare"])
def test_a_missing_extra_is_reported_before_anything_is_prepared(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("lotune.recipe.find_spec", lambda name: None)
    output = call(verb, recipe, status=2).stderr
    assert "tune.tensorboard: TensorBoard is not installed" in output
    assert "remedy: pip install '.[tensorboard]'" in output
    assert not (tmp_path / "runs" / "curves" / "data").exists()
