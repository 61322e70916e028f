"""What a command imports: large libraries only where it needs them, as each costs seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lotune.model.optional_libraries import HIDDEN, hide_optional_libraries

HEAVY = ("torch", "transformers", "peft", "torchao", "bitsandbytes", "accelerate", "scipy", "jieba")
WITHOUT_A_MODEL = {
    "help": ["--help"],
    "help of a recipe's verb": ["run", "--help"],
    "init": ["init", "rows.csv"],
    "sample": ["sample", "--task", "arithmetic", "--rows", "3", "--out", "sampled.jsonl"],
    "report": ["report", "finished"],
    "compare": ["compare", "finished/predictions/arithmetic/base.jsonl", "finished"],
    "unknown task, run": ["run", "task.yaml"],
    "unknown task, prepare": ["prepare", "task.yaml"],
    "unknown task, tune": ["tune", "task.yaml"],
    "unknown task, evaluate": ["evaluate", "task.yaml"],
    "unknown setting": ["run", "task.yaml", "tune.speed=3"],
    "missing file": ["run", "file.yaml"],
    "missing base": ["run", "base.yaml"],
    "unusable rows": ["run", "unusable.yaml"],
    "task of a model": ["evaluate", "--model", "nano", "--task", "nosuch"],
    "rows of a model": ["evaluate", "--model", "nano", "--task", "choice", "--data", "missing.json"],
}
"""Commands that need none of HEAVY."""
WITH_A_MODEL = {"evaluate": ["evaluate", "--model", "nano", "--task", "arithmetic", "--limit", "1"]}
"""Commands that need torch and transformers alone."""
REFUSED = ("unknown", "missing", "unusable", "task of", "rows of")
SCRIPT = """
import contextlib, io, json, sys
from lotune.cli.app import main
commands, heavy = json.loads(sys.argv[1])
found = {}
for name, words in commands.items():
    sys.argv, status = ["lotune", *words], 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    found[name] = [status, [one for one in heavy if sys.modules.get(one)]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    """Exit status and imported libraries after each command, one process for all in their order."""
    folder = tmp_path_factory.mktemp("imports")
    shutil.copytree(finished_run, folder / "finished")
    (folder / "rows.csv").write_text("question,answer\n" + "".join(f"{n} and {n}?,{2 * n}\n" for n in range(60)))
    (folder / "task.yaml").write_text("task: {name: nosuch}\n")
    (folder / "file.yaml").write_text("data: {train: missing.csv}\n")
    (folder / "base.yaml").write_text("base: {model: ./missing}\n")
    (folder / "unusable.yaml").write_text("task: {name: choice}\ndata: {train: rows.csv}\n")
    given = json.dumps([WITHOUT_A_MODEL | WITH_A_MODEL, HEAVY])
    completed = subprocess.run([sys.executable, "-c", SCRIPT, given], capture_output=True, text=True, cwd=folder)
    assert completed.returncode == 0, completed.stderr
    result: dict[str, tuple[int, list[str]]] = json.loads(completed.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", WITHOUT_A_MODEL)
def test_commands_without_a_model_import_no_large_library(
    imported: dict[str, tuple[int, list[str]]], name: str
) -> None:
    assert imported[name] == [2 if name.startswith(REFUSED) else 0, []]


@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_commands_with_a_model_import_no_library_of_adapters_or_quantisation(
    imported: dict[str, tuple[int, list[str]]], name: str
) -> None:
    status, libraries = imported[name]
    assert (status, libraries[:2]) == (0, ["torch", "transformers"])
    assert not {"peft", "torchao", "bitsandbytes", "scipy"} & set(libraries)


def test_no_import_is_blocked_once_transformers_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", sys)  # any module in its place
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    hide_optional_libraries()
    assert "sklearn" not in sys.modules


def test_unneeded_imports_are_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict.fromkeys(sys.modules.keys() - {"transformers", *HIDDEN}))
    hide_optional_libraries()
    assert [sys.modules.get(name, "absent") for name in HIDDEN] == [None] * len(HIDDEN)
