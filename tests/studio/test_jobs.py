"""Jobs are told by their folders, whoever was killed; the queue starts them in their order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from studios import wait_for

from lotune.errors import RunError
from lotune.files import write_json
from lotune.studio import dispatcher
from lotune.studio.dispatcher import Dispatcher, Queue, at_once, dispatch, set_at_once
from lotune.studio.jobs import Job, JobStore, process_record

SLEEP = "import time; print('begun', flush=True); time.sleep(100)"


@pytest.fixture
def jobs(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / ".lotune" / "jobs")


@pytest.fixture
def working(tmp_path: Path, jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    """A dispatcher whose commands are programs; its processes have ended at the end."""

    def program(words: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", words[0]]

    monkeypatch.setattr(dispatcher, "command_line", program)
    working = Dispatcher(tmp_path, jobs)
    yield working
    for job in jobs:
        if (process := job.process) is not None:
            process.kill()
    wait_for(lambda: not working.look())


def test_a_job_waits_runs_and_ends_with_its_status(working: Dispatcher, jobs: JobStore) -> None:
    good, bad = (
        jobs.add("run", "a", ["print('hello')"]),
        jobs.add("run", "b", ["import sys; sys.exit('no: such thing')"]),
    )
    assert [job.state for job in jobs] == ["waiting", "waiting"]
    wait_for(lambda: not working.look())
    assert [job.ended and job.ended.status for job in (good, bad)] == [0, 1]
    assert (good.last_lines(), bad.last_lines()) == (["hello"], ["no: such thing"])
    again = JobStore(jobs.folder)
    assert [job.state for job in again] == ["ended", "ended"]
    assert next((job.run, job.command) for job in again) == ("a", "lotune 'print('\"'\"'hello'\"'\"')'")
    assert good.id < bad.id


def test_one_run_works_at_a_time_unless_told_otherwise(working: Dispatcher, jobs: JobStore, tmp_path: Path) -> None:
    first, second, third = (jobs.add("run", name, [SLEEP]) for name in "abc")
    bundle = jobs.add("bundle", "a", ["print('at once')"])
    working.look()
    assert [job.state for job in (first, second, third)] == ["running", "waiting", "waiting"]
    assert bundle.state != "waiting"
    assert at_once(tmp_path) == 1
    set_at_once(tmp_path, 2)
    working.look()
    assert [job.state for job in (first, second, third)] == ["running", "running", "waiting"]
    wait_for(lambda: first.last_lines() == ["begun"])
    first.stop()
    wait_for(lambda: working.look() and third.state == "running")
    assert first.ended is not None
    assert (first.ended.status, first.ended.stopped) == (-signal.SIGINT, True) or first.ended.status == 1


def test_a_waiting_job_is_taken_out_and_never_starts(working: Dispatcher, jobs: JobStore) -> None:
    first, second = jobs.add("run", "a", [SLEEP]), jobs.add("run", "b", ["print('never')"])
    working.look()
    assert second.stop()
    assert second.state == "ended"
    assert second.ended is not None
    assert second.ended.stopped
    first.stop()
    wait_for(lambda: not working.look())
    assert not second.output.exists()


def test_one_of_many_gets_the_claim(jobs: JobStore) -> None:
    jobs.add("run", "a", [])
    program = f"""
from pathlib import Path
from lotune.studio.jobs import JobStore
print(sum(job.claim() for job in JobStore(Path({str(jobs.folder)!r}))))
"""
    claims = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(one.communicate()[0]) for one in claims) == 1


def test_a_killed_process_is_known_by_its_signal(working: Dispatcher, jobs: JobStore) -> None:
    job = jobs.add("run", "a", [SLEEP])
    working.look()
    assert job.process is not None
    job.process.kill()
    wait_for(lambda: not working.look())
    assert job.ended is not None
    assert (job.ended.status, job.ended.stopped) == (-signal.SIGKILL, False)


def test_the_jobs_of_a_killed_dispatcher_are_taken_over(working: Dispatcher, jobs: JobStore, tmp_path: Path) -> None:
    """Another process starts the jobs and is killed: one of them goes on, the other ends meanwhile."""
    program = f"""
import sys, time
from pathlib import Path
from lotune.studio import dispatcher
from lotune.studio.jobs import JobStore
dispatcher.command_line = lambda words: [sys.executable, "-c", words[0]]
dispatcher.set_at_once(Path({str(tmp_path)!r}), 2)
working = dispatcher.Dispatcher(Path({str(tmp_path)!r}), JobStore(Path({str(jobs.folder)!r})))
working.look()
print("started", flush=True)
time.sleep(100)
"""
    first, second = jobs.add("run", "a", [SLEEP]), jobs.add("run", "b", [SLEEP])
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "started\n"
    other.kill()
    other.communicate()
    assert [job.state for job in (first, second)] == ["running", "running"]
    assert working.look()
    assert first.process is not None
    first.process.kill()
    wait_for(lambda: working.look() and first.state == "ended")
    assert first.ended is not None
    assert first.ended.status is None
    assert second.state == "running"


def test_a_job_whose_dispatcher_died_before_it_started_has_ended(jobs: JobStore) -> None:
    job = jobs.add("run", "a", [])
    write_json(job.folder / "claim", {"pid": 2**22 + 1, "started": 1.0})
    assert job.state == "ended"
    assert job.is_orphan


def test_another_process_of_the_same_id_is_not_taken_for_the_job(jobs: JobStore) -> None:
    job = jobs.add("run", "a", [])
    record = process_record(psutil.Process())
    write_json(job.folder / "process.json", {**record, "started": record["started"] - 100})
    assert job.process is None
    write_json(job.folder / "process.json", record)
    assert job.process is not None


def test_the_queue_starts_a_process_when_there_is_work_and_only_one(tmp_path: Path, jobs: JobStore) -> None:
    queue = Queue(tmp_path, jobs)
    queue.ensure()
    assert queue._process is None
    job = queue.add("version", "a", ["--version"])
    queue.ensure()
    wait_for(lambda: job.state == "ended")
    dispatch(tmp_path)  # returns at once, or after the other one
    queue.wait()
    assert job.ended is not None
    assert job.ended.status == 0
    assert job.last_lines()[0].startswith("lotune ")


def test_a_file_in_the_folder_that_is_called_like_a_module_is_not_imported(tmp_path: Path, jobs: JobStore) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('imported')")
    (tmp_path / "lotune").mkdir()
    queue = Queue(tmp_path, jobs)
    job = queue.add("version", "a", ["--version"])
    wait_for(lambda: job.state == "ended")
    queue.wait()
    assert job.last_lines()[0].startswith("lotune ")


def test_ctrl_c_ignored_by_a_shell_reaches_a_job_all_the_same(tmp_path: Path, jobs: JobStore) -> None:
    """A shell starts background processes with SIGINT ignored, and the dispatcher's children would inherit that."""
    job = jobs.add("chat", "a", ["chat", "--model", "nano"])
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-P", "-m", "lotune.studio.dispatcher", {str(tmp_path)!r}])
"""
    started = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: job.process)
    ignored = int(next(line.split()[1] for line in Path(f"/proc/{job.process.pid}/status").read_text().splitlines()
                       if line.startswith("SigIgn")), 16) if job.process and os.path.exists("/proc") else 0  # fmt: skip
    job.stop()
    started.wait()
    assert not ignored & (1 << (signal.SIGINT - 1))


def test_a_status_is_written_once_there_is_space(
    working: Dispatcher, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, end = jobs.add("run", "a", ["print('done')"]), Job.end
    full = True

    def limited(job: Job, status: int | None, *, oom: bool = False) -> None:
        if full:
            raise RunError("ended.json", "cannot be written")
        end(job, status, oom=oom)

    monkeypatch.setattr(Job, "end", limited)
    working.look()
    wait_for(lambda: job.last_lines() == ["done"])
    assert working.look()
    assert job.state == "running"
    full = False
    wait_for(lambda: not working.look())
    assert job.ended is not None
    assert job.ended.status == 0
