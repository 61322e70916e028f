"""The benchmark of training runs on tiny models, with the peers that need nothing but what lotune itself needs."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _run(*words: object, **variables: str) -> processes.Ended:
    small = ("--tiny", "--rounds", "1", "--steps", "2", "--warmup", "1", "--threads", "1", "--matrix-size", "64")
    return processes.script(BENCHMARKS / "train.py", *small, *words, **variables)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize(
    ("expected", "contestants"),
    [
        ("memory,share,lora", "lotune,trainer"),
        pytest.param("pretrain-15m", "lotune,trainer,plain-loop", marks=pytest.mark.soak),
    ],
)
def test_contestants_do_the_same_work(tmp_path: Path, expected: str, contestants: str) -> None:
    file = tmp_path / "figures.json"
    words = ("--contestants", contestants, "--peers-python", sys.executable)
    completed = _run("--figures", expected, *words, "--json", file)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    figures = {figure["name"]: figure for figure in json.loads(file.read_text())["figures"]}
    assert set(figures) == set(expected.split(","))
    for name in figures.keys() - {"share"}:
        assert figures[name]["peer_name"] in contestants.split(",")[1:]
        assert figures[name]["ratio"] == pytest.approx(figures[name]["ours"] / figures[name]["peer"])
    assert "share" not in figures or figures["share"]["ours"] > 0


def test_an_unknown_figure_is_refused() -> None:
    completed = _run("--figures", "loar")
    assert completed.returncode == 2
    assert "no figure loar" in completed.stderr
    assert "pretrain-124m" in completed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.soak), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_the_figures_of_a_gpu_come_from_one_contest(tmp_path: Path, device: str) -> None:
    file, expected = tmp_path / "figures.json", "lora-8b,share-8b,hours-8b"
    completed = _run("--device", device, "--figures", expected, "--contestants", "lotune", "--json", file)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    figures = {figure["name"]: figure for figure in json.loads(file.read_text())["figures"]}
    assert ",".join(figures) == expected
    assert figures["hours-8b"]["ours"] == pytest.approx(90_000 * 5 * 81 / figures["lora-8b"]["ours"] / 3600)
    assert figures["share-8b"]["ours"] > 0


def test_a_contestant_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train

    def call(name: str, *_: Any) -> dict[str, Any]:
        if name == "trl":
            raise train.FailedError("trl failed: no memory")
        run = {"step_seconds": [9.0, 0.5], "losses": [5.0, 4.0], "norms": [1.0, 1.0], "peak_bytes": 1}
        return {"make": {}, "matrix": {"bfloat16": 1e9}}.get(name, run)

    monkeypatch.setattr(train, "call", call)
    options = Namespace(
        tiny=True, device="cpu", rounds=2, steps=2, warmup=1, threads=1, matrix_size=64, peers_python="python",
        contestants="lotune,trl,trl-packed",
    )  # fmt: skip
    failed: dict[str, str] = {}
    measured, matrices = train.run_contest("lora-8b", options, "float32", tmp_path / "contest", failed)
    assert failed == {"lora-8b: trl": "trl failed: no memory"}
    assert [item.name for item in measured] == ["lotune", "trl-packed"]
    plan = train.read_plan(tmp_path / "contest")
    ratio, share, hours = train.figures("lora-8b", list(train.ON_GPU), measured, matrices, plan)
    assert (ratio["peer_name"], ratio["ratio"]) == ("trl-packed", 1.0)
    assert ratio["ours"] == 8 * 81 / 0.5
    assert share["ours"] == pytest.approx(plan.operations_a_step() / 0.5 / 1e9)
    assert hours["ours"] == pytest.approx(90_000 * 5 / 16 / 3600)


def test_a_gpu_that_is_not_there_is_named() -> None:
    completed = _run("--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert completed.returncode == 2
    *_, result, expected, remedy = completed.stderr.splitlines()
    assert result.startswith("--device: cuda was asked for")
    assert expected.startswith("expected: ")
    assert remedy.startswith("remedy: --device cpu")


def test_operations_are_those_of_the_closed_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from train_workload import Plan

    plan = Plan("llama-tiny", "float32", 1, 1, 1, 3, 1, 1e-3)
    linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    adapters = 2 * 8 * ((32 + 32) + (32 + 16) + (32 + 32))
    attention = 6 * 2 * 32 * 2 * 2
    head = 4 * 2 * 32 * 320
    assert plan.operations_a_step() == 2 * (4 * linear + 6 * adapters) + attention + head
    without_o = replace(plan, targets=("q_proj", "v_proj"))
    assert plan.operations_a_step() - without_o.operations_a_step() == 2 * 6 * 2 * 8 * (32 + 32)
