"""The benchmark of servers runs, and its figures hold for the answers that it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve.py"


@pytest.mark.slow
def test_a_trial_run_measures_crowds(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--contestants", "lotune", "--figures", "crowd,own", "--json", file],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert " 0 failed, 0 prompts with another text than alone" in done.stdout
    assert "the next answer is right" in done.stdout
    [figure] = json.loads(file.read_text())["figures"]
    assert figure["peer_name"] == "the engine alone"
    assert figure["ratio"] == pytest.approx(figure["ours"] / figure["peer"])
