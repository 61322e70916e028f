"""Bad input through the command line: the message, three lines of it at most, and the exit status."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from command_line import RECIPE, invoke

PROGRESS = ("preparing", "rows:", "tokens:", "overlap", "changed:", "estimate:", "first row", "retention prompts")


def refused(*words: object, status: int = 2) -> str:
    """The message of a command that is refused: one to three lines, the last ones on stderr."""
    result = invoke(*words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.stderr
    assert not result.stdout
    lines = result.stderr.splitlines()
    while lines and lines[0].startswith(PROGRESS):
        lines.pop(0)
    assert "Traceback" not in result.stderr
    return "\n".join(lines)


@pytest.fixture(scope="module")
def recipe(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(RECIPE.format(base=small_base))
    return path


def rows(count: int = 20) -> list[str]:
    results = [{"problem": f"计算 {n} + 7 等于多少？", "solution": f"{n} + 7 = {n + 7}"} for n in range(count)]
    return [json.dumps(row, ensure_ascii=False) for row in results]


def write(path: Path, lines: list[str], end: str = "\n", mark: bytes = b"") -> Path:
    path.write_bytes(mark + "".join(line + end for line in lines).encode())
    return path


def test_missing_files_and_folders_are_named_all_at_once(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    words = [f"data.train={tmp_path / 'none.jsonl'}", f"data.test={tmp_path / 'folder'}", "retention.data=none.json"]
    output = refused("run", recipe, f"runs={tmp_path}", *words)
    assert f"data.train: {tmp_path / 'none.jsonl'} does not exist" in output
    assert f"data.test: {tmp_path / 'folder'} is an empty folder" in output
    assert "retention.data: none.json does not exist" in output
    assert len(output.splitlines()) == 3


def test_an_empty_file(recipe: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [])
    assert f"{file}: is empty" in refused("prepare", recipe, f"runs={tmp_path}", f"data.train={file}")


def test_too_few_rows_to_split(recipe: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", rows(5))
    words = ("prepare", recipe, f"runs={tmp_path}", f"data.train={file}")
    assert "data.test_rows: 6 rows split off 5" in refused(*words)
    assert "data.validation_rows: 4 rows split off 4" in refused(*words, "data.test_rows=1")


@pytest.mark.parametrize("words", [("init",), ("evaluate", "--model", "nano", "--task", "arithmetic", "--data")])
def test_verbs_on_a_file(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert f"{tmp_path}: is a folder" in refused(*words, tmp_path)
    assert "does not exist" in refused(*words, tmp_path / "none.csv")
    assert "is empty" in refused(*words, write(tmp_path / "a.jsonl", []))


def test_runs_that_cannot_be_written(recipe: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", rows(5))
    assert "mine.jsonl/small: cannot be read or written: Not a directory" in refused("run", recipe, f"runs={file}")


def test_a_recipe_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    assert "none.yaml: cannot be read: No such file" in refused("run", tmp_path / "none.yaml")
    assert f"{tmp_path}: cannot be read: Is a directory" in refused("run", tmp_path)


def test_malformed_lines_stop_with_a_list_or_are_counted(recipe: Path, tmp_path: Path) -> None:
    good = rows()
    file = write(tmp_path / "mine.jsonl", [*good[:5], "{broken", *good[5:], '"text"', *["[1]"] * 12])
    words = ("prepare", recipe, f"runs={tmp_path}", f"data.train={file}")
    output = refused(*words)
    assert "14 of 34 rows cannot be read: mine.jsonl:6 not JSON at column 2" in output
    assert "mine.jsonl:22 a text, not an object" in output
    assert "mine.jsonl:23, mine.jsonl:24" in output
    assert f"and 4 more, all in {tmp_path / 'small' / 'malformed_rows.txt'}" in output
    assert len((tmp_path / "small" / "malformed_rows.txt").read_text().splitlines()) == 14
    assert "data.on_error=skip" in output
    assert len(output.splitlines()) <= 3
    result = invoke(*words, "data.on_error=skip", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["rows"]["malformed"] == 14
    assert "14 malformed" in result.stderr


def test_a_table_with_semicolons_names_them(tmp_path: Path) -> None:
    output = refused("init", write(tmp_path / "mine.csv", ["problem;solution", "1 + 1;2", "2,5 + 2,5;5"]))
    assert "';' separates its cells" in output
    assert "save it with commas" in output


def test_init_names_the_rows_that_it_cannot_read(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_bytes((rows()[0] + "\n").encode("gbk"))
    output = refused("init", foreign)
    assert "holds no rows (1 could not be read: foreign.jsonl:1 byte " in output
    assert "save the file as UTF-8" in output
    output = refused("init", write(tmp_path / "lone.jsonl", ['{"problem": "\\ud800", "solution": "1"}']))
    assert "lone.jsonl:1 not JSON" in output
    output = refused("init", write(tmp_path / "open.csv", ["problem,solution", '"1 + 1,2']))
    assert "open.csv:2 not csv" in output
    mixed = write(tmp_path / "mixed.jsonl", [*rows(), "{broken"])
    result = invoke("init", mixed, "--out", tmp_path / "mixed.yaml", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["malformed"] == 1
    assert "1 of 21 rows are skipped: mixed.jsonl:21 not JSON" in result.stderr


def test_a_task_without_a_generator_names_the_setting_that_needs_a_file(recipe: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", rows(60))
    words = ("prepare", recipe, f"runs={tmp_path}", f"data.train={file}", "retention.task=choice")
    assert "retention.data: the task choice has no generator" in refused(*words)
    output = refused("sample", "--task", "choice", "--out", tmp_path / "x.jsonl")
    assert "--task: the task choice has no generator" in output
    assert not (tmp_path / "x.jsonl").exists()
    output = refused("evaluate", "--model", "nano", "--task", "choice")
    assert "--data: the task choice has no generator" in output


def test_wrong_columns_name_the_nearest(recipe: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", ['{"Problems": "1 + 1", "solutoin": "2"}'] * 12)
    output = refused("prepare", recipe, f"runs={tmp_path}", f"data.train={file}")
    assert "'problem' is 'Problems'" in output
    assert "'solution' is 'solutoin'" in output
    assert "mine.jsonl:10 " in output
    assert len(output.splitlines()) <= 3


def test_other_encodings_are_refused_with_line_and_byte(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes((rows()[0] + "\n").encode() + (rows()[1] + "\n").encode("gb18030"))
    output = refused("prepare", recipe, f"runs={tmp_path}", f"data.train={file}")
    assert "mine.jsonl:2 byte " in output
    assert "is not UTF-8" in output
    assert "save the file as UTF-8" in output
    file.write_bytes("\n".join(rows()).encode("utf-16"))
    assert "is UTF-16" in refused("prepare", recipe, f"runs={tmp_path}", f"data.train={file}")


def test_a_mark_and_windows_line_ends_are_read(recipe: Path, tmp_path: Path) -> None:
    """They change nothing: not the rows, not the split, not the tokens."""
    plain = write(tmp_path / "plain.jsonl", rows())
    marked = write(tmp_path / "marked.jsonl", rows(), end="\r\n", mark=b"\xef\xbb\xbf")
    for name, file in (("a", plain), ("b", marked)):
        result = invoke("prepare", recipe, f"runs={tmp_path}", f"name={name}", f"data.train={file}")
        assert result.exit_code == 0, result.stderr
    tokens = [(tmp_path / name / "data" / "train.tokens.npy").read_bytes() for name in "ab"]
    assert tokens[0] == tokens[1]


def test_a_row_longer_than_the_context(recipe: Path, tmp_path: Path) -> None:
    long = json.dumps({"problem": "计算 " + "1 + " * 1200 + "1 等于多少？", "solution": "1201"})
    lines = [*rows()[:10], long, *rows()[10:]]
    file = write(tmp_path / "mine.jsonl", lines)
    fixed = write(tmp_path / "fixed.jsonl", rows(60)[50:])
    other = write(tmp_path / "other.jsonl", rows(80)[70:])
    files = (f"data.train={file}", f"data.validation={fixed}", f"data.test={other}")
    words = ("prepare", recipe, f"runs={tmp_path}", *files)
    output = refused(*words, "data.on_too_long=stop")
    assert "1 rows are too long: mine.jsonl:11" in output
    assert "1024 tokens" in output
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["tokens"]["dropped_too_long"] == 1


@pytest.mark.parametrize("targets", [".*query.*", "[q_proj, query]"])
def test_unknown_targets_list_the_layers(recipe: Path, tmp_path: Path, targets: str) -> None:
    output = refused("run", recipe, f"runs={tmp_path}", f"adapter.target_modules={targets}")
    assert "query" in output.splitlines()[0]
    for name in ("q_proj", "o_proj", "gate_proj", "all-linear"):
        assert name in output
    assert len(output.splitlines()) == 3
    assert not (tmp_path / "small" / "data").exists(), "refused after long work"


def test_settings_are_refused_all_at_once(recipe: Path, tmp_path: Path) -> None:
    words = [
        "tune.lerning_rate=1",
        "data.generated_rwos=3",
        "adapter.rank=0",
        "tune.epochs=many",
        "retention.min_retained=2",
    ]
    output = refused("run", recipe, f"runs={tmp_path}", *words)
    assert "tune.lerning_rate: did you mean tune.learning_rate?" in output
    assert "data.generated_rwos: did you mean data.generated_rows?" in output
    for key in ("adapter.rank is 0", "tune.epochs is 'many'", "retention.min_retained is 2"):
        assert key in output
    assert len(output.splitlines()) <= 3
    assert not (tmp_path / "small").exists()


def test_numbers_without_end_are_refused(recipe: Path, tmp_path: Path) -> None:
    large = {
        "seed": "99999999999999999999999",
        "threads": "99999999999",
        "data.generated_rows": "10000000000000000000000",
    }
    infinite = ("tune.epochs", "adapter.alpha", "tune.weight_decay", "tune.adam_epsilon", "save_every_minutes")
    words = [*(f"{key}={value}" for key, value in large.items()), *(f"{key}=inf" for key in infinite)]
    output = refused("run", recipe, f"runs={tmp_path}", *words)
    for key in infinite:
        alternative = "input should be 'auto', or " if key == "tune.epochs" else ""
        assert f"{key} is 'inf': {alternative}input should be a finite number" in output
    for key, value in large.items():
        assert f"{key} is {value}: input should be less than or equal to" in output
    assert len(output.splitlines()) <= 3
    assert not (tmp_path / "small").exists()


def test_a_missing_device_is_reported_first(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device: cuda is not available here" in refused("run", recipe, f"runs={tmp_path}", "device=cuda")
    assert not (tmp_path / "small" / "data").exists(), "refused after long work"


@pytest.mark.skipif(sys.platform == "win32", reason="other locks")
def test_a_second_run_in_one_folder(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    from lotune.runs import lock_file

    (tmp_path / "small").mkdir()
    words = ("run", recipe, f"runs={tmp_path}")
    with lock_file(tmp_path / "small" / ".lock"):
        output = refused(*words)
    assert f"{tmp_path / 'small'}: is in use by process {os.getpid()}" in output
    assert "remedy: wait for it to finish, or stop it" in output

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert f".lock: cannot be locked: {os.strerror(errno.ENOLCK)}" in refused(*words)


@pytest.fixture
def base(small_base: Path, tmp_path: Path) -> Path:
    """A copy of the base, to be spoilt."""
    shutil.copytree(small_base, tmp_path / "base")
    return tmp_path / "base"


def test_bases_that_cannot_be_used(recipe: Path, base: Path, tmp_path: Path, small_base: Path) -> None:
    words = ("run", recipe, f"runs={tmp_path}", f"base.model={base}")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    output = refused(*words)
    assert "only as pickle (pytorch_model.bin), which can run code when opened" in output
    assert "*.safetensors" in output
    (base / "pytorch_model.bin").unlink()
    assert "holds no weights" in refused(*words)
    (base / "config.json").unlink()
    assert "has no config.json" in refused(*words)
    assert "is not a folder" in refused(*words, f"base.model={tmp_path / 'nothing'}")
    assert not (tmp_path / "small" / "data").exists(), "refused after long work"


def test_a_configuration_of_wrong_kinds(recipe: Path, base: Path, tmp_path: Path) -> None:
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": "x"}))
    output = refused("run", recipe, f"runs={tmp_path}", f"base.model={base}")
    assert f"{base}: cannot be loaded: " in output
    assert "max_position_embeddings" in output


def test_a_tokeniser_with_other_special_tokens(recipe: Path, base: Path, tmp_path: Path) -> None:
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 7, "pad_token_id": 8}))
    output = refused("run", recipe, f"runs={tmp_path}", f"base.model={base}")
    assert "eos_token_id is 0 in its tokeniser, 7 in its config.json" in output


def test_a_tokeniser_of_another_vocabulary(recipe: Path, base: Path, tmp_path: Path, byte_tokenizer: Any) -> None:
    larger = type(byte_tokenizer).from_pretrained(str(base))
    larger.add_tokens([f"<extra-{number}>" for number in range(200)])
    larger.save_pretrained(str(base))
    output = refused("run", recipe, f"runs={tmp_path}", f"base.model={base}")
    assert f"its tokeniser has {len(larger)} tokens, its embedding 400 rows" in output
    assert not (tmp_path / "small" / "data").exists(), "refused after long work"


def test_a_loss_that_is_not_a_number_names_step_and_rows(recipe: Path, base: Path, tmp_path: Path) -> None:
    """One row holds a token whose embedding is broken: the step that draws it stops, what was saved before stays."""
    import torch
    from transformers import AutoTokenizer

    from lotune.data.samplers import rows_of_step
    from lotune.data.token_files import TokenFile
    from lotune.model.checkpoints import save_model
    from lotune.model.new_models import new_llama

    lines = rows(32)
    lines[9] = json.dumps({"problem": "计算 9 @ 7 等于多少？", "solution": "16"}, ensure_ascii=False)
    file = write(tmp_path / "mine.jsonl", lines)
    further = [write(tmp_path / f"{name}.jsonl", rows(70)[start : start + 6]) for name, start in (("v", 50), ("t", 60))]
    tokenizer = AutoTokenizer.from_pretrained(base)
    shape = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "tie_word_embeddings": False, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    model = new_llama(shape)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer("@")["input_ids"][0]] = float("nan")
    save_model(model, tokenizer, base, torch.float32)
    words = ["run", recipe, f"runs={tmp_path}", f"base.model={base}", f"data.train={file}"]
    words += [
        f"data.validation={further[0]}",
        f"data.test={further[1]}",
        "tune.micro_batch_rows=4",
        "tune.epochs=1",
        "checkpoints.count=1",
    ]
    train = tmp_path / "small" / "data" / "train"
    for seed in range(20):  # one whose first step does not draw the row
        assert invoke("prepare", *words[1:], f"seed={seed}").exit_code == 0
        ids = TokenFile(train).ids(range(32))
        step = next(s for s in range(1, 9) if ids.index("mine.jsonl:10") in rows_of_step(32, 4, seed, s))
        if step > 2:
            break
    result = invoke(*words, f"seed={seed}")
    assert (result.exit_code, result.stdout) == (1, "")
    output = result.stderr.splitlines()[-3:]
    drawn = [ids[place] for place in rows_of_step(32, 4, seed, step)]
    layer = "base_model.model.model.embed_tokens"
    returned = f"the loss is nan and the norm of its gradient nan, first in {layer}; its rows: {', '.join(drawn)}"
    assert output[0] == f"step {step}: {returned}"
    assert "mine.jsonl:10" in drawn
    assert "lower the learning rate, which restarts the training, or fix these rows" in output[2]
    assert output[2].endswith("the state before this step is kept")
    assert list((tmp_path / "small" / "states").glob(f"step-{step - 1:09d}.*")), "at the default interval"
    assert f"resuming after step {step - 1}\n" in invoke(*words, f"seed={seed}").stderr


def test_a_run_folder_of_another_version_or_without_a_recipe(recipe: Path, tmp_path: Path) -> None:
    words = ("prepare", recipe, f"runs={tmp_path}")
    folder = tmp_path / "small"
    assert invoke(*words).exit_code == 0
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(environment | {"lotune": "99.1.0"}))
    assert "was written by lotune 99.1.0" in refused(*words)
    assert json.loads((folder / "environment.json").read_text())["lotune"] == "99.1.0"
    (folder / "environment.json").unlink()
    for text, result in (("seed: [", "is not YAML"), ("- 1\n", "holds a list")):
        (folder / "recipe.yaml").write_text(text)
        output = refused(*words)
        assert result in output
        assert "choose another name with name=" in output
        assert (folder / "recipe.yaml").read_text() == text
    (folder / "recipe.yaml").unlink()
    assert "holds files but no run" in refused(*words)


def test_a_damaged_memory_of_stages_is_named(recipe: Path, tmp_path: Path) -> None:
    words = ("prepare", recipe, f"runs={tmp_path}")
    assert invoke(*words).exit_code == 0
    for text in ('{"prepare": 3}', "[1]", '{"prepare": {"inputs": {}}}'):
        (tmp_path / "small" / "stages.json").write_text(text)
        output = refused(*words)
        assert "stages.json: is damaged" in output
        assert "delete it and run the same command again" in output
    (tmp_path / "small" / "stages.json").unlink()
    assert invoke(*words).exit_code == 0


def test_a_second_recipe_of_the_same_name_reports_the_changes(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "small.yaml"
    other.write_text(recipe.read_text().replace("seed: 3", "seed: 4").replace("rank: 2", "rank: 3"))
    assert invoke("prepare", recipe, f"runs={tmp_path}").exit_code == 0
    result = invoke("prepare", other, f"runs={tmp_path}")
    assert result.exit_code == 0, "another recipe is gone on with"
    assert "changed: seed: 3 -> 4 (invalidates prepare)\n" in result.stderr
    assert "changed: adapter.rank: 2 -> 3 (nothing finished depends on it)\n" in result.stderr
    assert "changed:" not in invoke("prepare", other, f"runs={tmp_path}").stderr


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_too_little_disk_space_is_reported_before_tuning(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lotune.disk_space.free_disk_bytes", lambda _: 2048)
    output = refused("tune", recipe, f"runs={tmp_path}")
    assert "preparing needs " in output
    assert not (tmp_path / "small" / "data").exists()
    monkeypatch.undo()
    assert invoke("prepare", recipe, f"runs={tmp_path}").exit_code == 0
    monkeypatch.setattr("lotune.disk_space.free_disk_bytes", lambda _: 2048)
    output = refused("tune", recipe, f"runs={tmp_path}")
    assert "tuning needs 1" in output
    assert "KiB on this disk, 2.0 KiB are free" in output
    assert not (tmp_path / "small" / "checkpoints").exists()
    monkeypatch.undo()
    assert invoke("tune", recipe, f"runs={tmp_path}", "--dry-run").exit_code == 0


def test_a_full_disk_is_reported_wherever_it_fills_up(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a run in its turn finds no room; what is there stays, and the same command ends in one result."""
    words = ("tune", recipe, f"runs={tmp_path}", "tune.steps=2", "save_every_minutes=0", "data.generated_rows=16")
    replace, turn = os.replace, [0]

    def full(*paths: Any, **how: Any) -> None:
        turn[0] -= 1
        if turn[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[1]))
        replace(*paths, **how)

    monkeypatch.setattr("os.replace", full)
    refusals = 0
    for number in range(1, 60, 2):
        turn[0] = number
        result = invoke(*words)
        if result.exit_code == 0:
            break
        refusals += 1
        output = result.stderr.splitlines()[-2:]
        assert result.exit_code == 2, result.stderr
        assert "cannot be written (No space left on device): " in output[0]
        assert "are free on its disk" in output[0]
        assert not list(tmp_path.rglob("*.tmp*"))
    assert refusals > 4
    assert (tmp_path / "small" / "tuning.json").exists()


def full_disk_run(words: list[object], most: int) -> processes.Ended:
    """A run in whose process no file may become larger than `most` bytes."""
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
    return processes.Process(limit + processes.LOTUNE, ["lotune", *words]).result()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
def test_a_file_that_may_not_grow_is_reported_and_no_other_is_damaged(recipe: Path, tmp_path: Path) -> None:
    words: list[object] = ["tune", recipe, f"runs={tmp_path}", "save_every_minutes=0"]
    completed = full_disk_run(words, 60_000)  # an adapter fits in, the merged model does not
    assert completed.returncode == 2, completed.stderr
    output = completed.stderr.splitlines()[-2:]
    assert "merged: cannot be written" in output[0]
    assert "are free on its disk, it needs 1" in output[0]
    assert "the same command again" in output[1]
    assert "Traceback" not in completed.stderr
    before = digests(tmp_path / "small" / "checkpoints")
    assert len(before) >= 6
    assert invoke(*words).exit_code == 0
    after = digests(tmp_path / "small" / "checkpoints")
    assert {path: after[path] for path in before} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 400 KiB; skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no disk may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # the rows of a run may still be mapped


@pytest.mark.slow
def test_a_full_disk(recipe: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["tune", recipe, f"runs={small_disk}", "save_every_minutes=0"]
    assert invoke("prepare", *words[1:]).exit_code == 0
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 80_000))
    before = digests(small_disk / "small" / "data")
    assert "tuning needs" in refused(*words)
    monkeypatch.setattr("lotune.stages.tuning.require_free_space", lambda *_: None)
    result = invoke(*words)
    assert result.exit_code == 2
    output = result.stderr.splitlines()[-2:]
    assert "cannot be written" in output[0]
    assert "are free on its disk, it needs " in output[0]
    assert digests(small_disk / "small" / "data") == before
    ballast.unlink()
    assert invoke(*words).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        "generate --prompt 1 task.max_new_tokens={}",
        "generate --task arithmetic --data {rows} --out {out} task.max_new_tokens={}",
        "evaluate --task reading --limit 2 task.max_new_tokens={}",
        "chat --max-new-tokens {}",
    ],
)
@pytest.mark.parametrize("most", [1024, 100_000])
def test_an_answer_longer_than_the_context_names_its_setting(
    words: str, most: int, small_base: Path, tmp_path: Path
) -> None:
    file, out = write(tmp_path / "mine.jsonl", rows(2)), tmp_path / "out.jsonl"
    command = [word.replace("{rows}", str(file)).replace("{out}", str(out)) for word in words.split()]
    output = refused(*(word.replace("{}", str(most)) for word in command), "--model", small_base)
    where = "--max-new-tokens" if "chat" in words else "task.max_new_tokens"
    assert output.startswith(f"{where}: is {most}, and the model takes 1024 tokens, prompt and answer together\n")
    assert "expected: 1023 at most" in output


def test_a_task_without_questions_is_refused_by_commands_that_answer_questions(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "计算 1 + 1 等于多少？"}\n', encoding="utf-8")
    output = refused("generate", "--model", "nano", "--task", "text", "--data", rows, "--out", tmp_path / "out.jsonl")
    assert "the task text has no questions to answer" in output
    assert not (tmp_path / "out.jsonl").exists()
    assert "remedy: did you mean text?" in refused("evaluate", "--model", "nano", "--task", "txet")
