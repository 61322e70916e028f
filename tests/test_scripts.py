"""What continuous integration asks of the demo's scorecard, and of the core install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_scorecard.py"


def checked(card: Path, least: float) -> tuple[int, str]:
    completed = subprocess.run([sys.executable, str(SCRIPT), str(card), str(least)], capture_output=True, text=True)
    return completed.returncode, completed.stderr


def test_a_scorecard_that_is_not_valid_or_too_low_fails(finished_run: Path, tmp_path: Path) -> None:
    card = finished_run / "scorecard.json"
    value = json.loads(card.read_text())["target"]["value"]
    assert checked(card, value) == (0, "")
    status, output = checked(card, value + 0.01)
    assert status == 1
    assert f"accuracy is {value:.3f}" in output
    spoilt = tmp_path / "scorecard.json"
    spoilt.write_text(json.dumps(json.loads(card.read_text()) | {"valid": False, "reasons": ["too little was kept"]}))
    assert checked(spoilt, 0.0) == (1, f"{spoilt}: too little was kept\n")


def test_packages_are_counted_through_their_requirements() -> None:
    script = Path(__file__).parents[1] / "scripts" / "core_packages.py"
    code = f"""
import runpy
script = runpy.run_path({str(script)!r})
print(*sorted(script["closure"](["rich>=13"])))
script["main"].__globals__["MAX_PACKAGES"] = 3
raise SystemExit(script["main"]())
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.stdout.splitlines()[0] == "markdown-it-py mdurl pygments rich"
    assert "at most 3" in completed.stdout
    assert completed.returncode == 1
    assert "found: accelerate, " in completed.stderr
