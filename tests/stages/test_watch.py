"""`lotune watch` shows a training from another shell, and never takes a dead one for a running one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call

from lotune.stages.watch import take_picture

HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    open(sys.argv[1], "w").write("4711")
    print("held", flush=True)
    time.sleep(600)
"""
"""A process that works on a run, as far as its lock shows."""


def write_run(folder: Path, steps: int = 4, torn: str = "") -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text("seed: 1\n")
    (folder / "plan.json").write_text('{"title": "pre-training", "steps": 10}')
    lines = [
        {"number": n, "loss": 8 / n, "learning_rate": 0.01, "tokens": 50, "seconds": 0.5} for n in range(1, steps + 1)
    ]
    records = [*lines, {"validation": {"step": 4, "loss": 2.5, "perplexity": 12.18, "bits_per_byte": 1.5}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + torn)
    samples = [{"step": step, "prompt": "光速", "continuation": f"[red]\x1b[31m {step}"} for step in (2, 4)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return folder


def test_a_stopped_training_shows_how_far_it_came(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", torn='{"number": 5, "lo')
    shown = call("watch", run, "--once").stdout
    assert shown.splitlines()[:4] == [
        "pre-training: stopped",
        "step 4 of 10 (40 %), loss 2.0000, learning rate 0.01, 100 tokens/s",
        "loss █▃▂▁ 8.0000 to 2.0000",
        "validation: step 4, loss 2.5, perplexity 12.18, bits_per_byte 1.5",
    ]
    assert "光速⟦[red]" in shown
    assert "\x1b" not in shown
    assert " 2⟧" not in shown  # of an earlier validation
    picture = json.loads(call("watch", run, "--json").stdout)
    assert (picture["step"], picture["steps"], picture["seconds_left"]) == (4, 10, 3.0)


@pytest.mark.skipif(sys.platform == "win32", reason="another lock there")
def test_a_process_that_died_is_not_shown_as_running(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run / ".lock")], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert "pre-training: running (process 4711)" in call("watch", run).stdout
            assert "0:03 left" in call("watch", run).stdout
            assert (run / ".lock").read_text() == "4711"  # looking changes nothing
        finally:
            holder.kill()
    assert take_picture(run).state == "stopped"
    (run / "stages.json").write_text('{"pretrain": {"inputs": {}, "outputs": {}}}')
    assert take_picture(run).state == "done"


def test_a_folder_that_is_no_training_is_refused(tmp_path: Path) -> None:
    assert "is no run" in call("watch", tmp_path, status=2).stderr
    (tmp_path / "recipe.yaml").write_text("")
    assert "has no training yet" in call("watch", tmp_path, status=2).stderr
