"""Run folders: atomic files, stages that know whether they are done, and the lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lotune import runs
from lotune.errors import RunError
from lotune.files import read_json, write_atomically
from lotune.recipe import Recipe, read_recipe
from lotune.runs import Run, open_run


def test_stages_know_whether_they_are_done(tmp_path: Path) -> None:
    run, rows = Run(tmp_path), tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    write_atomically(tmp_path / "data" / "tokens.bin", b"123")
    inputs = {"seed": 1, "tune.learning_rate": 0.001, "data.train": rows}
    assert run.stage_state("prepare", inputs) == "fresh"
    run.mark_stage_done("prepare", inputs, [Path("data"), tmp_path / "data" / "tokens.bin"])
    assert run.stage_state("prepare", inputs) == "done"
    assert run.changes("prepare", {**inputs, "tune.learning_rate": 0.002}) == ["tune.learning_rate: 0.001 -> 0.002"]
    assert run.changes("prepare", {"seed": 1, "data.train": rows}) == ["tune.learning_rate: 0.001 -> null"]
    assert run.changes("prepare", {**inputs, "data.train": None}) == ["data.train: a file -> null"]
    assert run.stage_state("prepare", {**inputs, "seed": 2}) == "changed"
    rows.unlink()
    with pytest.raises(RunError, match=r"data.train: .*rows.jsonl does not exist"):
        run.stage_state("prepare", inputs)
    rows.write_text("{}\n")
    assert run.stage_state("prepare", inputs) == "done"
    rows.write_text("[]\n")
    os.utime(rows, ns=(0, 0))
    assert run.changes("prepare", inputs) == ["data.train: content changed"]
    run.invalidate_stage("prepare")
    assert run.stage_state("prepare", inputs) == "fresh"


def test_lost_and_damaged_outputs_are_noticed(tmp_path: Path) -> None:
    run, output = Run(tmp_path), tmp_path / "checkpoints" / "model.bin"
    write_atomically(output, b"123")
    run.mark_stage_done("tune", {}, [output])
    write_atomically(output, b"123")
    assert run.stage_state("tune", {}) == "done"
    write_atomically(output, b"1234")
    assert run.changes("tune", {}) == ["checkpoints/model.bin: content changed"]
    output.unlink()
    assert run.changes("tune", {}) == ["checkpoints/model.bin: missing"]


def test_open_run_writes_recipe_and_environment(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    with open_run(folder, Recipe(seed=7)) as run:
        assert run.folder == folder
    assert read_recipe(folder / "recipe.yaml") == Recipe(name="recipe", seed=7)
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["tune"]["learning_rate"] == "auto"
    described = read_json(folder / "environment.json")
    assert described["packages"]["torch"]
    assert described["cores"] >= 1
    with open_run(folder, Recipe(seed=8)) as run:
        assert read_recipe(folder / "recipe.yaml").seed == 8
        run.mark_stage_done("prepare", {"seed": 8})
    with open_run(folder, Recipe(seed=9)) as run:
        assert run.recipe_changes == ("seed: 8 -> 9",)
        assert read_recipe(folder / "recipe.yaml").seed == 8, "what is finished is not its work"
        run.invalidate_stage("prepare")
        assert read_recipe(folder / "recipe.yaml").seed == 9


@pytest.mark.skipif(sys.platform == "win32", reason="processes are not asked there")
def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = [f"data/.train.tokens.npy.{ended.pid}.tmp", f"states/.{ended.pid}.tmp", f".scorecard.json.{ended.pid}.tmp"]
    stay = [f".report.html.{os.getpid()}.tmp", "data/.mine.tmp", f"data/mine.{ended.pid}.tmp"]
    with open_run(tmp_path, Recipe()):
        for name in (*gone, *stay):
            write_atomically(tmp_path / name, "half")
    with open_run(tmp_path, Recipe()):
        assert [name for name in (*gone, *stay) if (tmp_path / name).exists()] == stay


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
def test_a_full_disk_is_reported_for_the_lock(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            pytest.raises(RunError, match=r"\.lock: cannot be written \(File too large\)"),
            runs.lock_file(tmp_path / ".lock"),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="holds files but no run"), open_run(tmp_path, Recipe()):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_second_run_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lotune.runs import lock_file\n"
        "with lock_file(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script, str(tmp_path / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"), open_run(tmp_path, Recipe()):
            pass
        holder.kill()
    with open_run(tmp_path, Recipe()):
        pass


def test_a_file_renamed_in_a_folder_of_rows_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "subjects"
    folder.mkdir()
    (folder / "arts.csv").write_text("q,0\n")
    inputs = {"data.train": folder}
    with open_run(tmp_path / "run", Recipe()) as run:
        run.mark_stage_done("prepare", inputs)
        assert run.stage_state("prepare", inputs) == "done"
        (folder / "arts.csv").rename(folder / "law.csv")
        assert run.stage_state("prepare", inputs) == "changed"


def test_the_folder_of_a_run_stands_for_its_model(tmp_path: Path) -> None:
    from lotune.cli.execution import model_of_run
    from lotune.model.loading import base_folder
    from lotune.model.settings import BaseSettings

    assert model_of_run("nano") == "nano"
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(RunError, match="without a finished training"):
        model_of_run(str(run))
    (run / "tuning.json").write_text('{"chosen": "step-000002"}')
    assert model_of_run(str(run)) == str(run / "checkpoints" / "step-000002" / "adapter")
    (run / "checkpoints" / "step-000002" / "merged").mkdir(parents=True)
    assert model_of_run(str(run)) == str(run / "checkpoints" / "step-000002" / "merged")
    (run / "pretraining.json").write_text("{}")
    for name in ("model", "model-best"):
        (run / name).mkdir()
        (run / name / "config.json").write_text("{}")
        assert model_of_run(str(run)) == str(run / name)
    assert base_folder(BaseSettings(model=str(run))) == run / "model-best"
