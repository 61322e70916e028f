"""A training that is killed at random moments ends with the weights of one that was not: the benchmark, once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("verb", ["tune", "pretrain"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, verb: str) -> None:
    command = [sys.executable, str(BENCHMARK), "--verb", verb, "--kills", "1", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    same, in_saves, outsides = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert same["ours"] == same["reach"] == 1
    assert in_saves["ours"] == 1, "no kill met the save of a state"
    assert outsides["ours"] == 1, "no kill from outside met the training"
