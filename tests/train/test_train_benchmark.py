"""The benchmark of training runs on tiny models, with the peers that need nothing but what lotune itself needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "train.py"), "--tiny", "--rounds", "1", "--steps", "2", "--warmup", "1"]
    command += ["--threads", "1", "--matrix-size", "64", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
@pytest.mark.oracle
def test_contestants_do_the_same_work(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    contestants = ("--contestants", "lotune,trainer,plain-loop", "--peers-python", sys.executable)
    done = _run("--figures", "lora,memory,share,pretrain-15m", *contestants, "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {one["name"]: one for one in json.loads(file.read_text())["figures"]}
    assert set(figures) == {"lora", "memory", "share", "pretrain-15m"}
    assert figures["lora"]["peer_name"] == "trainer"
    assert figures["pretrain-15m"]["peer_name"] in ("trainer", "plain-loop")
    for name in ("lora", "memory", "pretrain-15m"):
        assert figures[name]["ratio"] == pytest.approx(figures[name]["ours"] / figures[name]["peer"])
    assert figures["share"]["ours"] > 0


def test_an_unknown_figure_is_refused() -> None:
    done = _run("--figures", "loar")
    assert done.returncode == 2
    assert "no figure loar" in done.stderr
    assert "pretrain-124m" in done.stderr


def test_operations_are_those_of_the_closed_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from train_workload import Plan

    plan = Plan("llama-tiny", "float32", 1, 1, 1, 3, 1, 1e-3)
    linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    adapters = 2 * 8 * ((32 + 32) + (32 + 16) + (32 + 32))
    attention = 6 * 2 * 32 * 2 * 2
    head = 4 * 2 * 32 * 320
    assert plan.operations_a_step() == 2 * (4 * linear + 6 * adapters) + attention + head
