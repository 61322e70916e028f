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
    done = _run("--tiny", "--device", device, "--figures", "requests-1b", "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())["requests-1b"]
    rates = {name: found[name]["tokens_a_second"] for name in ("lotune", "generate-8", "generate-32")}
    assert found["ratio"] == pytest.approx(rates["lotune"] / max(rates["generate-8"], rates["generate-32"]))
    assert ("peak_mib" in found["lotune"]) == (device == "cuda")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cuda"), "--device: cuda was asked for"),
        (("--figures", "requests-1b"), "needs --device cuda, or --tiny"),
        (("--figures", "mixd"), "no figure mixd"),
    ],
)
def test_impossible_measurements_are_refused(words: tuple[str, ...], said: str) -> None:
    done = _run(*words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert said in done.stderr
