"""A training that is killed at random steps ends with the weights of one that was not: the benchmark, a tiny base."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import processes
import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("verb", ["tune", "pretrain"])
def test_a_killed_training_resumes_to_the_same_weights(small_base: Path, tmp_path: Path, verb: str, kills: int) -> None:
    words = ["--verb", verb, "--kills", kills, "--base", small_base, "--json", tmp_path / "figures.json"]
    completed = processes.script(BENCHMARK, *words)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    same, in_saves, outsides = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert same["ours"] == same["reach"] == kills
    assert in_saves["ours"] == kills, "no kill met the save of a state"
    assert outsides["ours"] == kills, "no kill from outside met the training"
