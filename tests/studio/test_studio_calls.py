"""The life of runs through the calls: started, watched, stopped, killed, continued, compared, handed in, deleted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from studios import StudioAddress, studio_at, wait_for, write_recipe, write_rows

from lotune.files import read_json

ENDLESS = 400


@pytest.fixture(scope="module")
def finished(server: StudioAddress, folder: Path) -> str:
    """A finished run, and another one with a setting that differs."""
    for name, epochs in (("small", 1), ("longer", 2)):
        server.call("POST", "runs", status=201, body={"recipe": write_recipe(folder, Path("base"), name, epochs)})
    for name in ("small", "longer"):
        assert server.wait(name, "done", "died", "stopped")["state"] == "done"
    return "small"


def test_a_run_has_what_the_terminal_gives(server: StudioAddress, folder: Path, finished: str) -> None:
    seen = server.call("GET", "run", run=finished)
    assert (seen["step"], seen["steps"], len(seen["loss"])) == (5, 5, 5)
    assert len(seen["validations"]) == 2
    assert len(seen["answers"]) == 5
    assert seen["answers"][0]["base"]["answer"] is not None
    assert set(seen["answers"][0]["checkpoints"]) == {found["name"] for found in seen["validations"]}
    assert seen["command"] == "lotune run small.yaml"
    done = subprocess.run([sys.executable, "-m", "lotune", "run", "small.yaml", "runs=terminal", "--json"], cwd=folder,
                          capture_output=True, check=True, text=True)  # fmt: skip
    there, here = json.loads(done.stdout), read_json(folder / "runs" / "small" / "scorecard.json")
    assert {key: value for key, value in here.items() if key != "next_steps"} == {
        key: value for key, value in there.items() if key != "next_steps"
    }
    card = server.call("GET", "run/scorecard", run=finished)
    assert card["figures"][0]["label"] == "accuracy"
    assert {table["name"] for table in card["tables"]} >= {"kept", "checkpoints", "checks"}


def test_the_list_and_the_answers(server: StudioAddress, finished: str) -> None:
    rows = {row["name"]: row for row in server.call("GET", "runs")["runs"]}
    assert rows[finished]["task"] == "arithmetic"
    page = server.call("GET", "run/answers", run=finished, rows=4)
    assert (page["found"], len(page["rows"])) == (6, 4)
    assert page["rows"][0]["tuned"]["answer"] is not None
    assert server.call("GET", "run/answers", run=finished, text="no such text")["found"] == 0


def test_runs_are_compared_in_pairs(server: StudioAddress, finished: str) -> None:
    found = server.call("GET", "compare", run=["small", "longer"])
    assert found["differing"]["tune.epochs"] == [1.0, 2.0]
    assert [one["figures"]["name"] for one in found["runs"]] == ["small", "longer"]
    paired = server.call("GET", "compare/answers", a="small", b="longer")
    assert paired["n"] == 6
    assert paired["command"] == "lotune compare runs/small runs/longer"
    assert server.call("GET", "compare/answers", status=404, a="small", b="none")["error"]["code"] == "not_found"


def test_a_bundle_and_a_model_are_downloaded(server: StudioAddress, finished: str, tmp_path: Path) -> None:
    assert server.call("POST", "run/bundle", status=202, body={"run": finished, "team": "Us"})["state"] != "done"
    made = wait_for(
        lambda: (now := server.call("GET", "run", run=finished)["made"]["bundle"])["state"] == "done" and now
    )
    assert made["command"] == "lotune bundle runs/small --team Us --out downloads/small.zip"
    reply = server.get(f"/api/run/file?run={finished}&name=bundle")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    (tmp_path / "b.zip").write_bytes(reply.body)
    assert "manifest.json" in zipfile.ZipFile(tmp_path / "b.zip").namelist()
    server.call("POST", "run/export", status=202, body={"run": finished})
    wait_for(lambda: server.call("GET", "run", run=finished)["made"]["gguf"]["state"] == "done")
    assert server.get(f"/api/run/file?run={finished}&name=gguf").body[:4] == b"GGUF"
    report = server.get(f"/report/{finished}")
    assert "sandbox" in report.headers["content-security-policy"]
    as_file = server.get(f"/api/run/file?run={finished}&name=report.html")
    assert as_file.headers["content-type"] == "application/octet-stream"
    for name in ("log.txt", "../small/recipe.yaml", "stages.json"):
        assert server.call("GET", "run/file", status=404, run=finished, name=name)["error"]
    team = {"run": finished, "team": "!!!"}
    server.call("POST", "run/bundle", status=202, body=team)
    failed = wait_for(
        lambda: (now := server.call("GET", "run", run=finished)["made"]["bundle"])["state"] == "failed" and now
    )
    assert "team" in " ".join(failed["cause"])


def test_somebody_talks_to_base_and_tuned(server: StudioAddress, finished: str) -> None:
    fields = server.call("GET", "run/question", run=finished)["fields"]
    assert fields == ["problem"]
    asked = server.call("POST", "run/question", body={"run": finished, "values": {"problem": "计算 1 + 1 等于多少？"}})
    assert server.get(f"/talk/{finished}/v1/models").status == 409
    address = server.call("POST", "run/talk", body={"run": finished})["address"]
    models = [model["id"] for model in server.get(f"{address}/v1/models").json["data"]]
    assert models == ["base", "small"]
    reply = server.post(f"{address}/v1/completions", model="small", prompt=asked["prompt"], max_tokens=4, temperature=0,
                        stream=True)  # fmt: skip
    assert "".join(event["choices"][0]["text"] for event in reply.events)
    page = server.get(f"{address}/ui/compare")
    assert b'data-home="small"' in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert server.get("/talk/other/v1/models").status == 409
    assert server.get(f"{address}/v1/models", {"Authorization": "Bearer x"}).status == 401
    assert server.studio is not None
    record = read_json(server.studio.workspace.own / "talk.json")
    assert psutil.Process(record["pid"]).is_running()
    assert not (server.studio.workspace.own / "talk-key").exists()


def test_a_run_is_stopped_continued_and_made_again_with_a_change(
    server: StudioAddress, folder: Path, finished: str
) -> None:
    recipe = write_recipe(folder, Path("base"), "long", ENDLESS)
    server.call("POST", "runs", status=201, body={"recipe": recipe})
    server.call("POST", "runs", status=409, body={"recipe": recipe})
    waiting = write_recipe(folder, Path("base"), "waiting", 1)
    server.call("POST", "runs", status=201, body={"recipe": waiting})
    wait_for(lambda: server.call("GET", "run", run="long").get("step", 0) > 2)
    assert server.state("waiting") == "waiting"
    assert server.call("DELETE", "run", status=409, run="long")["error"]["code"] == "at_work"
    refused = server.call("PATCH", "recipe", status=409, body={"recipe": recipe, "changes": {"seed": "4"}})
    assert refused["error"]["code"] == "recipe_in_use"
    server.call("POST", "run/stop", body={"run": "waiting"})
    assert server.state("waiting") == "stopped"
    server.call("POST", "run/stop", body={"run": "long"})
    stopped = server.wait("long", "stopped")
    assert stopped["continue_command"] == "lotune run runs/long/recipe.yaml"
    server.call("POST", "run/stop", status=409, body={"run": "long"})
    server.call("POST", "run/continue", status=201, body={"run": "long"})
    wait_for(lambda: server.call("GET", "run", run="long")["step"] > stopped["step"] + 2)
    process = server.call("GET", "run", run="long")["process"]
    psutil.Process(process).kill()
    died = server.wait("long", "died")
    assert "SIGKILL" in died["why"]
    copied = server.call("POST", "recipe/copy", status=201, body={"run": "long"})
    assert copied["file"] == "long-2.yaml"
    assert "# A recipe of somebody's own." in copied["text"]
    server.call("PATCH", "recipe", body={"recipe": "long-2.yaml", "changes": {"tune.epochs": "1"}})
    for run in ("long", "waiting"):
        server.call("DELETE", "run", run=run)
        server.call("GET", "run", status=404, run=run)
    assert not (folder / "runs" / "long").exists()
    assert (folder / "long.yaml").exists()


def test_what_is_wrong_with_a_run_is_quoted(server: StudioAddress, folder: Path, finished: str) -> None:
    (folder / "bad.csv").write_text("review,mood\n" + '"so",pos\n' * 4)
    (folder / "bad.yaml").write_text("task: {name: sentences, columns: {sentence: text, label: mood}}\n"
                                     "data: {train: bad.csv}\nbase: {model: base}\n")  # fmt: skip
    server.call("POST", "runs", status=201, body={"recipe": "bad.yaml"})
    died = server.wait("bad", "died")
    assert died["why"] == "it ended with the exit status 2"
    assert any("text" in line for line in died["cause"])
    server.call("POST", "run/continue", status=201, body={"run": "bad"})
    server.wait("bad", "died")


def test_rows_become_a_recipe_with_an_estimate(server: StudioAddress, folder: Path, finished: str) -> None:
    write_rows(folder)
    form = server.call("POST", "recipe", status=201, body={"rows": "mood.csv", "base": "base"})
    assert (form["file"], form["run_state"]) == ("mood.yaml", None)
    again = server.call("POST", "recipe", status=201, body={"rows": "mood.csv"})
    assert again["file"] == "mood-2.yaml"
    fault = server.call("PATCH", "recipe", status=422, body={"recipe": "mood.yaml", "changes": {"tune.epochs": "many"}})
    assert list(fault["error"]["faults"]) == ["tune.epochs"]
    server.call("PATCH", "recipe", body={"recipe": "mood.yaml", "changes": {"retention.rows": "8", "device": "cpu"}})

    def estimate() -> object:
        found = server.call("POST", "recipe/estimate", body={"name": "mood.yaml"})
        return found["state"] != "running" and found

    found = wait_for(estimate)
    assert found["state"] == "done", found
    assert found["estimate"]["steps"] > 0
    assert found["settings"]["tune.learning_rate"]["why"]
    assert found["counts"]["rows"]["read"] == 60
    assert not (folder / "runs" / "mood").exists()
    listing = server.call("GET", "folder")
    assert {"mood.csv", "bad.csv"} <= {file["name"] for file in listing["rows"]}
    assert {"mood.yaml", "small.yaml"} <= {file["name"] for file in listing["recipes"]}
    bases = {base["name"] for base in server.call("GET", "bases")["bases"]}
    assert {"nano", "base"} <= bases
    assert any(name.startswith("runs/small/checkpoints/") for name in bases)


def test_files_outside_are_asked_about(server: StudioAddress, folder: Path, finished: str, small_base: Path) -> None:
    recipe = write_recipe(folder, small_base, "far", 1)
    refused = server.call("POST", "runs", status=403, body={"recipe": recipe})
    assert refused["error"]["outside"] == [str(small_base)]
    server.call("GET", "run", status=404, run="far")


def test_a_run_of_the_terminal_is_shown_and_stopped(server: StudioAddress, folder: Path, finished: str) -> None:
    recipe = write_recipe(folder, Path("base"), "typed", ENDLESS)
    process = subprocess.Popen([sys.executable, "-m", "lotune", "run", recipe], cwd=folder, stderr=subprocess.PIPE)
    wait_for(lambda: (folder / "runs" / "typed" / "metrics.jsonl").exists())
    seen = server.call("GET", "run", run="typed")
    assert (seen["state"], seen["process"]) == ("running", process.pid)
    server.call("POST", "run/stop", body={"run": "typed"})
    process.communicate()
    assert process.returncode == 130
    assert server.state("typed") == "stopped"


def test_the_server_ends_and_its_runs_go_on(folder: Path, finished: str) -> None:
    own = folder / "sub"
    own.mkdir()
    shutil.copytree(folder / "base", own / "base")
    with studio_at(own) as first:
        first.call("POST", "runs", status=201, body={"recipe": write_recipe(own, Path("base"), "long", ENDLESS)})
        wait_for(lambda: first.call("GET", "run", run="long").get("step", 0) > 1)
        before = first.call("GET", "run", run="long")
        with studio_at(own) as second:  # the same folder in another server, as after a restart
            seen = second.call("GET", "run", run="long")
            assert (seen["state"], seen["process"]) == ("running", before["process"])
            second.call("POST", "run/stop", body={"run": "long"})
            second.wait("long", "stopped")
        assert first.state("long") == "stopped"
