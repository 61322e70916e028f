"""The hand-in of a run: complete, the same bytes each time, without anything private, and verified from outside."""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
import yaml
from command_line import call

from lotune.contest.manifest import five_evenly_spaced
from lotune.evaluate.scorecard_claims import spacing_claim

CHECKPOINTS = [f"step-{number:06d}" for number in (1, 2, 3, 4, 5)]


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {entry.filename: file.read(entry) for entry in file.infolist()}


def rewritten(path: Path, out: Path, change: Callable[[dict[str, bytes]], None], *, honest: bool = True) -> Path:
    """A bundle with changed content; an `honest` manifest has the digests of the changed files."""
    members = contents(path)
    change(members)
    if honest:
        manifest = json.loads(members["manifest.json"])
        manifest["members"] = [
            {"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(members.items())
            if name != "manifest.json"
        ]
        members["manifest.json"] = orjson.dumps(manifest)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out


def failed(path: Path) -> list[str]:
    """The failed checks of a bundle, which has some."""
    result = call("bundle", "--check", path, "--json", status=1)
    report = json.loads(result.stdout)
    assert report["passed"] is False
    return [check["name"] for check in report["checks"] if check["result"] == "failed"]


def edit_manifest(**claims: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        manifest["claims"].update(claims)
        members["manifest.json"] = orjson.dumps(manifest)

    return change


def edit_lines(name: str, edit: Callable[[dict[str, Any]], None], lines: int = 1) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        rows = [json.loads(line) for line in members[name].splitlines()]
        for row in rows[:lines]:
            edit(row)
        members[name] = b"".join(orjson.dumps(row) + b"\n" for row in rows)

    return change


def test_it_holds_what_the_contest_asks_for(bundle: Path) -> None:
    members = contents(bundle)
    for name in (
        *("README.md", "method.md", "inference.md", "recipe.yaml", "environment.json", "training-log.txt"),
        *("retention-log.txt", "self-test.md", "answers.jsonl", "report.html", "report.md", "scorecard.json"),
        *("pictures/loss.svg", "pictures/accuracy-ratio.svg", "metrics.jsonl", "predictions/arithmetic/base.jsonl"),
        *(f"checkpoints/{name}/adapter/adapter_model.safetensors" for name in CHECKPOINTS),
        *(f"checkpoints/{name}/merged/model.safetensors" for name in CHECKPOINTS),
    ):
        assert members[name], name
    assert json.loads(members["environment.json"])["installed"]["orjson"] == orjson.__version__
    manifest = json.loads(members["manifest.json"])
    assert manifest["team"] == "The Team"
    assert [one["name"] for one in manifest["checkpoints"]] == CHECKPOINTS
    assert {one["merged"] for one in manifest["checkpoints"]} == {"included"}
    listed = {item["path"]: item["sha256"] for item in manifest["members"]}
    assert list(listed) == sorted(listed)
    assert listed == {
        name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != "manifest.json"
    }
    assert manifest["claims"]["spacing"]["passed"] is True
    pictures = [content for name, content in members.items() if name.startswith("pictures/")]
    assert len(pictures) >= 2
    assert {ElementTree.fromstring(picture).tag for picture in pictures} == {"{http://www.w3.org/2000/svg}svg"}


def test_a_check_passes(bundle: Path) -> None:
    report = json.loads(call("bundle", "--check", bundle, "--rerun", 3, "--json").stdout)
    assert report["passed"] is True
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert set(results.values()) == {"passed"}
    assert set(results) == {
        *("files", "checksums", "hand-in", "complete checkpoints", "training log", "spacing", "claimed spacing"),
        *("adapters", "base total", "ratio", "recipe", "answers", "retention log", "accuracy", "retention", "score"),
        *("verdict", "scorecard", "logs", "rerun"),
    }


def test_the_same_run_gives_the_same_bytes(five_checkpoints: Path, bundle: Path, tmp_path: Path) -> None:
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.chdir(five_checkpoints.parent)
        call("bundle", five_checkpoints.name, "--team", "The Team", "--out", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(bundle) as file:
        for entry in file.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            stored = entry.filename.endswith(".safetensors")
            assert entry.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def test_nothing_of_this_machine_is_inside(bundle: Path, five_checkpoints: Path, small_base: Path) -> None:
    private = [str(five_checkpoints), str(five_checkpoints.parent), str(small_base), str(Path.home()) + "/"]
    private += [name for name in (platform.node(),) if len(name) > 4 and name != "localhost"]
    if getpass.getuser() != "root":
        private.append(f"/{getpass.getuser()}/")
    for name, content in contents(bundle).items():
        for text in private:
            assert text.encode() not in content, f"{text} in {name}"


def test_without_merged_models(five_checkpoints: Path, tmp_path: Path, small_base: Path) -> None:
    path = tmp_path / "small.zip"
    call("bundle", five_checkpoints, "--team", "The Team", "--without-merged", "--out", path)
    members = contents(path)
    assert not [name for name in members if "/merged/" in name]
    manifest = json.loads(members["manifest.json"])
    assert {one["merged"] for one in manifest["checkpoints"]} == {"left out"}
    left_out = {item["path"]: item["sha256"] for item in manifest["left_out"]}
    weights = "checkpoints/step-000001/merged/model.safetensors"
    assert left_out[weights] == hashlib.sha256((five_checkpoints / weights).read_bytes()).hexdigest()
    report = json.loads(call("bundle", "--check", path, "--rerun", 2, "--base", small_base, "--json").stdout)
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert set(results.values()) == {"passed"}
    without = json.loads(call("bundle", "--check", path, "--json").stdout)["checks"]
    assert [check["name"] for check in without if check["result"] == "not applicable"] == ["base total"]


def cheat_answer(row: dict[str, Any]) -> None:
    row["answer"], row["correct"], row["extracted"] = row["reference"], True, row["reference"]


def claim_correct(row: dict[str, Any]) -> None:
    row["correct"] = True


def shrink_adapter(members: dict[str, bytes]) -> None:
    import numpy as np
    from safetensors.numpy import save

    members["checkpoints/step-000005/adapter/adapter_model.safetensors"] = save({"a": np.zeros(3, np.float32)})


def edit_text(name: str, old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        assert old.encode() in members[name]
        members[name] = members[name].replace(old.encode(), new.encode(), 1)

    return change


def nest_recipe(members: dict[str, bytes]) -> None:
    members["recipe.yaml"] = b"[" * 200_000


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.pop(name) and None


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (edit_manifest(ratio=0.00001), {"ratio", "score", "scorecard"}),
        (edit_manifest(trainable=7), {"ratio", "scorecard"}),
        (edit_manifest(base_total=10**9), {"base total", "ratio", "scorecard"}),
        (edit_manifest(value=0.99), {"accuracy", "scorecard"}),
        (edit_manifest(score=0.99), {"score", "scorecard"}),
        (edit_manifest(steps=100), {"training log", "spacing", "claimed spacing", "scorecard"}),
        (edit_manifest(steps=10**12), {"training log", "spacing", "claimed spacing", "scorecard"}),
        (edit_manifest(valid=True), {"verdict", "scorecard"}),
        (edit_manifest(convention="llama3-8b"), {"ratio", "recipe", "scorecard"}),
        (edit_lines("predictions/arithmetic/base.jsonl", cheat_answer, 6), {"accuracy"}),
        (edit_lines("answers.jsonl", lambda row: row.update(answer="42")), {"answers"}),
        (edit_lines("data/test.jsonl", lambda row: row.update(prompt="another")), {"accuracy", "score", "answers"}),
        (nest_recipe, {"recipe"}),
        (edit_text("training-log.txt", "  loss ", "  loss 0"), {"logs"}),
        (edit_text("retention-log.txt", "  answer: ", "  answer: x"), {"logs"}),
        (edit_text("self-test.md", "# Self-test", "# Self-test: all is well"), {"logs"}),
        (drop("retention-log.txt"), {"hand-in", "retention log"}),
        (drop("training-log.txt"), {"hand-in", "training log"}),
        (drop("environment.json"), {"hand-in"}),
        (drop("checkpoints/step-000002/merged/config.json"), {"complete checkpoints"}),
        (drop("predictions/reading/base.jsonl"), {"retention"}),
        (shrink_adapter, {"adapters"}),
    ],
)  # fmt: skip
def test_a_false_claim_is_found(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], names: set[str]
) -> None:
    found = set(failed(rewritten(bundle, tmp_path / "false.zip", change)))
    assert found & names, found
    assert found <= names | {"ratio", "verdict", "score", "retention log", "logs"}, found


def test_the_parameters_of_the_base_are_counted_where_no_merged_model_is(
    five_checkpoints: Path, small_base: Path, tmp_path: Path
) -> None:
    def name_nano(members: dict[str, bytes]) -> None:
        recipe = yaml.safe_load(members["recipe.yaml"])
        recipe["base"]["model"] = "nano"
        members["recipe.yaml"] = yaml.safe_dump(recipe).encode()

    honest = tmp_path / "honest.zip"
    call("bundle", five_checkpoints, "--team", "T", "--without-merged", "--out", honest)
    false = rewritten(honest, tmp_path / "false.zip", edit_manifest(base_total=2_164_416_000, ratio=1e-6))
    report = json.loads(call("bundle", "--check", false, "--base", small_base, "--json", status=1).stdout)
    assert "base total" in [check["name"] for check in report["checks"] if check["result"] == "failed"]
    assert "base total" in failed(rewritten(honest, tmp_path / "nano.zip", name_nano))


def test_a_gate_below_that_of_the_contest_does_not_count(bundle: Path, tmp_path: Path) -> None:
    recipe = contents(bundle)["recipe.yaml"].decode()
    least = next(line for line in recipe.splitlines() if line.strip().startswith("min_retained:"))
    lowered = edit_text("recipe.yaml", least, least.replace("0.9", "0.0"))
    report = json.loads(call("bundle", "--check", rewritten(bundle, tmp_path / "low.zip", lowered), "--json").stdout)
    assert report["passed"], "the claims are by the gate of the contest"


@pytest.mark.parametrize("name", ["adapter_config.json", "Adapter_Config.json"])
def test_a_merged_model_that_is_an_adapter_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        members[f"checkpoints/step-000002/merged/{name}"] = b'{"base_model_name_or_path": "elsewhere"}'

    refused = call("bundle", "--check", rewritten(bundle, tmp_path / "adapter.zip", change), status=2)
    assert "an adapter of another model" in refused.stderr


def test_tensors_that_the_file_does_not_hold_are_refused(bundle: Path, tmp_path: Path) -> None:
    path = "checkpoints/step-000002/merged/model.safetensors"

    def change(members: dict[str, bytes]) -> None:
        size = int.from_bytes(members[path][:8], "little")
        header = json.loads(members[path][8 : 8 + size])
        header["more"] = {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 0]}
        text = orjson.dumps(header)
        members[path] = len(text).to_bytes(8, "little") + text + members[path][8 + size :]

    call("bundle", "--check", rewritten(bundle, tmp_path / "more.zip", change), status=2)


def test_a_stored_verdict_is_not_believed(bundle: Path, tmp_path: Path) -> None:
    """The verdicts of the file say right; the judge says what the texts are."""
    manifest = json.loads(contents(bundle)["manifest.json"])
    chosen = manifest["claims"]["chosen_checkpoint"]
    change = edit_lines(f"predictions/arithmetic/{chosen}.jsonl", claim_correct, 6)
    path = rewritten(bundle, tmp_path / "verdicts.zip", change)
    report = json.loads(call("bundle", "--check", path, "--json").stdout)
    accuracy = next(check for check in report["checks"] if check["name"] == "accuracy")
    assert f"-> {manifest['claims']['value']!r} on 6 rows, judged again" in accuracy["detail"]


def test_a_changed_or_added_file_is_found(bundle: Path, tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        members["method.md"] += b"more\n"
        members["extra.txt"] = b"not in the manifest\n"

    assert {"files", "checksums"} <= set(failed(rewritten(bundle, tmp_path / "changed.zip", change, honest=False)))


def test_a_pickle_under_another_name_is_refused_even_if_the_manifest_does_not_list_it(
    bundle: Path, tmp_path: Path
) -> None:
    def change(members: dict[str, bytes]) -> None:
        members["extra.txt"] = b"\x80\x04."

    result = call("bundle", "--check", rewritten(bundle, tmp_path / "pickle.zip", change, honest=False), status=2)
    assert "is a pickle" in result.stderr


def test_another_model_is_found_by_asking_again(bundle: Path, tmp_path: Path) -> None:
    """Answers and claims fit together, but they are not those of the model."""
    chosen = json.loads(contents(bundle)["manifest.json"])["claims"]["chosen_checkpoint"]

    def change(members: dict[str, bytes]) -> None:
        edit_lines(f"predictions/arithmetic/{chosen}.jsonl", cheat_answer, 6)(members)
        rows = [json.loads(line) for line in members[f"predictions/arithmetic/{chosen}.jsonl"].splitlines()]
        members["answers.jsonl"] = b"".join(orjson.dumps({"id": r["id"], "answer": r["answer"]}) + b"\n" for r in rows)

    path = rewritten(bundle, tmp_path / "invented.zip", change)
    result = call("bundle", "--check", path, "--rerun", 6, "--json", status=1)
    rerun = json.loads(result.stdout)["checks"][-1]
    assert (rerun["name"], rerun["result"]) == ("rerun", "failed")
    assert "6 rows asked again" in rerun["detail"]


def test_a_damaged_content_fails_its_check(bundle: Path, tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        members["scorecard.json"] = b"[]\n"
        members["recipe.yaml"] = b"a: &a [1]\nb: *a\n"

    assert {
        "recipe",
    } <= set(failed(rewritten(bundle, tmp_path / "damaged.zip", change)))


@pytest.fixture
def run(five_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(five_checkpoints, tmp_path / "runs" / "five")
    return tmp_path / "runs" / "five"


def copy_adapter(members: dict[str, bytes]) -> None:
    weights = "checkpoints/step-00000{}/adapter/adapter_model.safetensors"
    for number in (2, 3, 4, 5):
        members[weights.format(number)] = members[weights.format(1)]


def name_twice(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["checkpoints"][1]["name"] = manifest["checkpoints"][0]["name"]
    members["manifest.json"] = orjson.dumps(manifest)


def rename_checkpoint(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["checkpoints"][0]["name"] = "../../outside"
    members["manifest.json"] = orjson.dumps(manifest)


def test_copies_of_a_checkpoint_are_named(bundle: Path, tmp_path: Path) -> None:
    path = rewritten(bundle, tmp_path / "copies.zip", copy_adapter)
    assert "4 adapters have the weights of another" in call("bundle", "--check", path).stdout


def never_merged(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["checkpoints"][1]["merged"] = "none"
    members["manifest.json"] = orjson.dumps(manifest)


def test_a_checkpoint_that_was_never_merged_is_found(bundle: Path, tmp_path: Path) -> None:
    assert failed(rewritten(bundle, tmp_path / "never.zip", never_merged)) == ["complete checkpoints"]


def test_another_number_of_checkpoints_is_bundled_with_a_warning(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "few"
    call(
        "run", run / "recipe.yaml", f"runs={path.parent}", "name=few", "checkpoints.count=2", "checkpoints.merged=none"
    )
    result = call("bundle", path, "--team", "The Team", "--out", tmp_path / "few.zip")
    assert "warning: not the contest's checkpoints: 2 checkpoints, the contest asks for 5" in result.stderr
    assert "warning: not all checkpoints are merged" in result.stderr
    assert set(failed(tmp_path / "few.zip")) == {"complete checkpoints", "spacing"}


def test_a_checkpoint_that_counts_twice_is_found(bundle: Path, tmp_path: Path) -> None:
    assert failed(rewritten(bundle, tmp_path / "twice.zip", name_twice)) == ["complete checkpoints"]


def test_a_name_that_leads_elsewhere_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = rewritten(bundle, tmp_path / "names.zip", rename_checkpoint)
    assert "manifest.json: checkpoints.0.name" in call("bundle", "--check", path, status=2).stderr


def test_repeated_answers_make_no_bomb(run: Path, tmp_path: Path) -> None:
    """An untuned model may repeat a token for ever; a bundle of such answers can be checked."""
    config = run / "checkpoints" / "step-000001" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "revision": "x" * (3 << 20)}))
    call("bundle", run, "--team", "The Team", "--out", tmp_path / "a.zip")
    call("bundle", "--check", tmp_path / "a.zip")


def test_metadata_of_weights_with_a_path_are_refused(run: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = run / "checkpoints" / "step-000001" / "adapter" / "adapter_model.safetensors"
    save_file(load_file(str(weights)), str(weights), metadata={"source": str(run)})
    result = call("bundle", run, "--team", "The Team", "--out", tmp_path / "a.zip", status=2)
    assert "its metadata name a path of this machine" in result.stderr


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "scorecard.json").unlink()
    result = call("bundle", run, "--team", "The Team", "--out", tmp_path / "a.zip", status=2)
    assert "is not finished" in result.stderr
    assert not list(tmp_path.glob("*.zip*"))


def test_a_changed_run_is_refused(run: Path, tmp_path: Path) -> None:
    with (run / "predictions" / "arithmetic" / "base.jsonl").open("a") as file:
        file.write("\n")
    result = call("bundle", run, "--team", "The Team", "--out", tmp_path / "a.zip", status=1)
    assert "has changed since it was finished" in result.stderr


def test_a_secret_is_refused_with_file_and_line(run: Path, tmp_path: Path) -> None:
    token = "hf_" + "A" * 34
    path = run / "checkpoints" / "step-000001" / "adapter" / "adapter_config.json"
    path.write_text(path.read_text() + f'"{token}"\n')
    result = call("bundle", run, "--team", "The Team", "--out", tmp_path / "a.zip", status=2)
    assert "checkpoints/step-000001/adapter/adapter_config.json:" in result.stderr
    assert "holds a token of the Hugging Face hub" in result.stderr
    assert token not in result.stderr
    assert not list(tmp_path.glob("*.zip*"))


def test_a_pickle_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "step-000001" / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    result = call("bundle", run, "--team", "The Team", "--out", tmp_path / "a.zip", status=2)
    assert "adapter_model.bin" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--team", "The Team", "--link", "javascript:alert(1)"),
        ("--team", " \u200b"),
        ("--team", "a\nb"),
        ("--team", "The Team", "--out", "bundle.tar"),
        ("--team", "The Team", "--rerun", 3),
        (),
    ],
)
def test_options_that_cannot_be_used(five_checkpoints: Path, words: tuple[str, ...]) -> None:
    call("bundle", five_checkpoints, *words, status=2)


def test_the_spacing_of_checkpoints() -> None:
    assert five_evenly_spaced([2, 4, 6, 8, 10], 10).passed
    assert not five_evenly_spaced([5, 10], 10).passed
    assert spacing_claim([5, 10], 10).passed
    assert not spacing_claim([1, 2], 10).passed
    assert not spacing_claim([], 10).passed
