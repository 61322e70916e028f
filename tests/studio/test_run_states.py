"""The state of a run follows from its files, its process and its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lotune.files import write_json
from lotune.runs import lock_file
from lotune.studio.errors import CallError
from lotune.studio.jobs import Job, JobStore
from lotune.studio.run_states import Runs, is_finished, state_of
from lotune.studio.workspace import Workspace

STAGE = {"inputs": {}, "outputs": {}}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(Workspace.at(tmp_path), JobStore(tmp_path / ".lotune" / "jobs"))


def make_run(runs: Runs, name: str, *stages: str) -> Path:
    folder = runs.workspace.runs / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("seed: 1\n")
    if stages:
        write_json(folder / "stages.json", dict.fromkeys(stages, STAGE))
    return folder


def ended_job(
    runs: Runs, name: str, status: int | None, output: str = "", *, oom: bool = False, stopped: bool = False
) -> Job:
    job = runs.jobs.add("run", name, ["run", f"{name}.yaml"])
    job.claim()
    job.output.write_text(output)
    if stopped:
        (job.folder / "stop").touch()
    job.end(status, oom=oom)
    return job


ERROR = "preparing the rows\nmood.csv: has no column 'label'\nremedy: name it\n"


@pytest.mark.parametrize(("status", "options", "state", "why"), [
    (2, {}, "died", "exit status 2"),
    (130, {}, "stopped", ""),
    (-signal.SIGINT, {"stopped": True}, "stopped", ""),
    (-signal.SIGKILL, {}, "died", "SIGKILL, as the system does when memory runs out"),
    (-signal.SIGKILL, {"oom": True}, "out_of_memory", "the system ended it"),
    (-signal.SIGSEGV, {}, "died", "SIGSEGV"),
    (None, {}, "died", "no exit status"),
    (None, {"stopped": True}, "stopped", ""),
    (0, {}, "stopped", ""),
])  # fmt: skip
def test_an_unfinished_run_ended_as_its_job_did(
    runs: Runs, status: int, options: dict[str, bool], state: str, why: str
) -> None:
    folder = make_run(runs, "mood", "prepare")
    job = ended_job(runs, "mood", status, ERROR, **options)
    found = state_of(folder, job)
    assert found.name == state
    assert why in found.why
    assert ("mood.csv: has no column 'label'" in found.cause) == bool(why)


def test_memory_that_ran_out_in_python_is_told_from_its_words(runs: Runs) -> None:
    for words in ("memory: ran out (DefaultCPUAllocator)", "max_batch_tokens: memory ran out in a forward pass"):
        job = ended_job(runs, "mood", 2, f"tuning\n{words}\nremedy: use a smaller base\n")
        assert state_of(None, job).name == "out_of_memory"
    assert state_of(None, ended_job(runs, "mood", 2, "a row about memory: ran out\n")).name == "died"


def test_a_finished_run_is_done_whatever_its_job_says(runs: Runs) -> None:
    folder = make_run(runs, "mood", "prepare", "tune", "evaluate")
    assert is_finished(folder)
    assert state_of(folder, ended_job(runs, "mood", -9)).name == "done"
    assert state_of(make_run(runs, "base", "pretrain"), None).name == "done"
    assert state_of(make_run(runs, "half", "prepare", "tune"), None).name == "stopped"
    damaged = make_run(runs, "damaged")
    (damaged / "stages.json").write_text("{")
    assert state_of(damaged, None).name == "stopped"


def test_a_run_that_works_in_a_terminal_is_running(runs: Runs) -> None:
    folder = make_run(runs, "mood", "evaluate")
    with lock_file(folder / ".lock"):
        state = state_of(folder, None)
        assert (state.name, state.process) == ("running", os.getpid())
        with pytest.raises(CallError, match="at work"):
            runs.delete("mood")
    assert state_of(folder, None).name == "done"


def test_a_killed_run_is_running_no_longer(runs: Runs) -> None:
    folder = make_run(runs, "mood")
    program = f"""
import time
from pathlib import Path
from lotune.runs import lock_file
with lock_file(Path({str(folder)!r}) / ".lock"):
    print("locked", flush=True)
    time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert state_of(folder, None).name == "running"
    process.kill()
    process.communicate()
    assert state_of(folder, None).name == "stopped"


def test_the_list_has_folders_and_jobs_the_latest_first(runs: Runs) -> None:
    make_run(runs, "old", "evaluate")
    (runs.workspace.runs / "no-run").mkdir()
    (runs.workspace.runs / ".hidden").mkdir()
    runs.jobs.add("run", "next", ["run", "next.yaml"])
    runs.jobs.add("bundle", "old", ["bundle"])
    assert [(row["name"], row["state"]) for row in runs.rows()] == [("next", "waiting"), ("old", "done")]


def test_figures_are_read_again_when_the_scorecard_changes(runs: Runs) -> None:
    folder = make_run(runs, "mood", "evaluate")
    assert runs.rows()[0]["tuned"] is None
    write_json(folder / "scorecard.json", {"target": {"task": "sentences", "value": 0.5}, "valid": True})
    assert runs.rows()[0]["tuned"] == 0.5


def test_a_run_that_a_link_leads_outside_to_is_not_there(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "recipe.yaml").write_text("seed: 1\n")
    runs.workspace.runs.mkdir()
    (runs.workspace.runs / "linked").symlink_to(outside)
    assert runs.rows() == []
    for work in (runs.find, runs.delete, runs.folder):
        with pytest.raises(CallError) as caught:
            work("linked")
        assert caught.value.status == 404
    assert (outside / "recipe.yaml").exists()


def test_deleting_takes_the_folder_and_the_jobs_and_nothing_else(runs: Runs) -> None:
    make_run(runs, "keep")
    make_run(runs, "mood", "evaluate")
    (runs.workspace.runs / "alias").symlink_to(runs.workspace.runs / "keep")
    ended_job(runs, "mood", 0)
    runs.delete("mood")
    runs.delete("alias")
    assert {path.name for path in runs.workspace.runs.iterdir() if not path.name.startswith(".")} == {"keep"}
    assert [row["name"] for row in runs.rows()] == ["keep"]
    assert list(runs.jobs) == []
    for name in ("mood", "..", "../keep", "/etc", ".lotune"):
        with pytest.raises(CallError):
            runs.delete(name)
