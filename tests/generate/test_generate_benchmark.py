"""The benchmark of generation on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import processes
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "generate.py"


def _run(*words: object, **variables: str) -> processes.Ended:
    return processes.script(SCRIPT, "--rounds", "1", "--threads", "1", *words, **variables)


@pytest.mark.oracle
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_contestants_answer_the_same_requests_equally(tmp_path: Path, device: str) -> None:
    file = tmp_path / "figures.json"
    completed = _run("--tiny", "--device", device, "--figures", "requests-1b", "--json", file)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    result = json.loads(file.read_text())["requests-1b"]
    rates = {name: result[name]["tokens_a_second"] for name in ("lotune", "generate-8", "generate-32")}
    assert result["ratio"] == pytest.approx(rates["lotune"] / max(rates["generate-8"], rates["generate-32"]))
    assert ("peak_mib" in result["lotune"]) == (device == "cuda")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "cuda"), "--device: cuda was asked for"),
        (("--figures", "requests-1b"), "needs --device cuda, or --tiny"),
        (("--figures", "mixd"), "no figure mixd"),
    ],
)
def test_impossible_measurements_are_refused(words: tuple[str, ...], message: str) -> None:
    completed = _run(*words, CUDA_VISIBLE_DEVICES="")
    assert completed.returncode == 2
    assert message in completed.stderr
