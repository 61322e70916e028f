"""The documentation: its recipes load, its links lead somewhere, its reference is current."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lotune.arena.opponents_file import OpponentsFile
from lotune.errors import DataError, SettingsError
from lotune.recipe import Recipe, read_recipe
from lotune.settings import read_settings
from lotune.settings_help import describe
from lotune.synthesis.settings import SynthesisSettings
from lotune.tasks import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TRANSLATED = [
    ("README.md", "README.zh.md"),
    ("docs/tutorial.md", "docs/tutorial.zh.md"),
    ("docs/minigpt.md", "docs/minigpt.zh.md"),
]
KEYS = {line.key for line in describe(Recipe)}
GROUPS = {key.rsplit(".", depth)[0] for key in KEYS for depth in range(1, key.count(".") + 1)}


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fenced(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def spans(path: Path) -> list[str]:
    """The inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(path))


CODE = re.compile(
    r"^```(?P<language>\w*)\n(?P<block>.*?)^```|`(?P<span>(?:lotune (?:--|\w+ )|(?:python|torchrun|pip) )[^`\n]+)`",
    re.M | re.S,
)
PLACEHOLDER = re.compile(r"(^| )([A-Z]+|\.\.\.)( |$)")


def commands(path: Path) -> list[str]:
    """Return the commands of a page in their order: the lines of shell blocks and inline code without placeholders."""
    result = []
    for code in CODE.finditer(path.read_text(encoding="utf-8")):
        if code["span"] and not PLACEHOLDER.search(code["span"]):
            result.append(code["span"])
        elif code["language"] == "sh":
            result += [line.partition(" #")[0].strip() for line in code["block"].splitlines()]
    return [command for command in result if command]


def load(path: Path, name: str) -> ModuleType:
    """A file outside the package as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_pinned_versions_are_those_of_the_constraints(path: Path) -> None:
    pins = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    named = {word for line in commands(path) for word in line.split() if re.fullmatch(r"[\w-]+==[\w.]+", word)}
    assert named <= pins


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_recipes_in_the_documentation_load(path: Path, tmp_path: Path) -> None:
    for block in fenced(path, "yaml"):
        recipe = tmp_path / "shown.yaml"
        recipe.write_text(block, encoding="utf-8")
        if path.name == "arena.md":
            read_settings(OpponentsFile, recipe)
        elif path.name == "synthesis.md":
            read_settings(SynthesisSettings, recipe, ["articles=articles"])
        else:
            read_recipe(recipe)
        assert len(block.splitlines()) <= 30


def reads(words: list[str]) -> bool:
    """Whether these settings can be read."""
    try:
        return bool(read_settings(Recipe, None, words))
    except SettingsError:
        return False


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_settings_in_the_documentation_exist(path: Path) -> None:
    """A dotted name in inline code that begins with a group of settings is one, and `key=value` can be read."""
    for span in spans(path):
        key, _, value = span.partition("=")
        if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) or key.endswith((".py", ".json", ".yaml")):
            continue
        if key.split(".")[0] in GROUPS:
            assert key in KEYS | GROUPS, span
            if value and not value.isupper():
                of_a_task = key.startswith("task.") and key != "task.name"
                named = [[f"task.name={name}"] for name in registry.TASKS] if of_a_task else [[]]
                assert any(reads([*words, span]) for words in named), span


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_files_in_the_documentation_exist(path: Path) -> None:
    for span in spans(path):
        if re.fullmatch(r"(lotune|tests|docs|scripts|recipes)/[\w/.-]+", span) and not re.search("labels|ia3", span):
            assert (ROOT / span).exists(), span


def anchor(heading: str) -> str:
    """The anchor that a heading gets on the usual hosts.

    >>> anchor("What it measures, exactly")
    'what-it-measures-exactly'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, place = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_file(), target
        if place:
            headings = re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE)
            assert place in map(anchor, headings), target


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED)
def test_both_languages_show_the_same(english: str, chinese: str) -> None:
    """Commands, recipes (without comments), headings and tables are the same in number and, where code, in text."""
    one, other = ROOT / english, ROOT / chinese
    assert commands(one) == commands(other)
    plain = [[re.sub(r" *#.*", "", block) for block in fenced(page, "yaml")] for page in (one, other)]
    assert plain[0] == plain[1]
    for mark in (r"^#+ ", r"^\|"):
        counts = [len(re.findall(mark, prose(page), re.MULTILINE)) for page in (one, other)]
        assert counts[0] == counts[1], mark


def test_the_reference_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    module: Any = load(ROOT / "scripts" / "reference.py", "lotune_reference")
    assert module.main(["--check"]) == 0, capsys.readouterr().out


def test_the_task_of_the_how_to_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = fenced(ROOT / "docs" / "how-to" / "add-a-task.md", "python")
    file = tmp_path / "labels.py"
    file.write_text(code, encoding="utf-8")
    module: Any = load(file, "lotune_labels")
    monkeypatch.setattr(
        registry, "TASKS", {**registry.TASKS, "labels": registry.TaskEntry(module.LabelsSettings, module.LabelTask)}
    )
    task = registry.build_task(registry.task_settings("labels"))
    rows = [{"text": "I liked it.", "label": "good"}, {"text": "Never again.", "label": "bad"}]
    task.write(tmp_path / "labels.jsonl", rows)
    read = task.read(tmp_path / "labels.jsonl").rows
    assert [row for _, row in read] == rows
    examples = list(task.examples(read, training=True))
    judged = [task.judge(example, example.target) for example in examples]
    assert task.metrics(judged) == {"accuracy": 1.0}
    assert task.judge(examples[0], " bad\nor good").correct is False
    with pytest.raises(DataError, match="row 7"):
        list(task.examples([("row 7", {"text": "no label"})], training=False))


@pytest.fixture(scope="module")
def with_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of lotune to which the task of the page was added, as the page says."""
    folder = tmp_path_factory.mktemp("with-labels")
    shutil.copytree(ROOT / "lotune", folder / "lotune", ignore=shutil.ignore_patterns("__pycache__"))
    page = ROOT / "docs" / "how-to" / "add-a-task.md"
    [code] = fenced(page, "python")
    (folder / "lotune" / "tasks" / "labels.py").write_text(code, encoding="utf-8")
    [entry] = re.findall(r'^ *"labels": .*$', page.read_text(encoding="utf-8"), re.MULTILINE)
    registry = folder / "lotune" / "tasks" / "registry.py"
    source = registry.read_text(encoding="utf-8")
    source = source.replace(
        "\nfrom lotune.tasks", "\nfrom lotune.tasks.labels import LabelsSettings, LabelTask\nfrom lotune.tasks", 1
    )
    registry.write_text(source.replace('\n}\n"""Tasks by name', f'\n{entry}\n}}\n"""Tasks by name'), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_task_of_the_how_to_page_completes_a_run(with_labels: Path, small_base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"Text {number}.", "label": "good" if number % 2 else "bad"} for number in range(24)]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tmp_path / "labelled.yaml"
    recipe.write_text(
        f"{{task: {{name: labels, ignore_case: true}}, base: {{model: '{small_base}', dtype: float32}}, device: cpu,"
        f" data: {{train: '{file}', validation_rows: 4, test_rows: 6}}, tune: {{epochs: 1}},"
        " retention: {rows: 2, replay: {rows: 0}, validation_rows: 0},"
        f" checkpoints: {{count: 1}}, runs: '{tmp_path}'}}"
    )

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "lotune", *words]
        completed = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(with_labels)}
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    assert "accuracy" in call("evaluate", "--model", str(small_base), "--task", "labels", "--data", str(file))
    call("evaluate", str(recipe))  # the stages before it, too
    call("report", str(tmp_path / "labelled"))
    assert json.loads((tmp_path / "labelled" / "data" / "counts.json").read_text())["rows"]["kept"] == 14
    card = json.loads((tmp_path / "labelled" / "scorecard.json").read_text())
    assert (card["target"]["task"], card["target"]["n"], card["target"]["scorer"]) == ("labels", 6, "")
