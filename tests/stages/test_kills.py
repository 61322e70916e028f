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
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figure = json.loads((tmp_path / "figures.json").read_text())["figures"][0]
    assert figure["ours"] == figure["reach"] == 1
