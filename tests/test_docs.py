"""The documentation: its commands parse, its recipes load, its links lead somewhere, its reference is current."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from lotune.cli import app
from lotune.errors import DataError, SettingsError
from lotune.recipe import Recipe, read_recipe
from lotune.settings import describe, read_settings
from lotune.tasks import registry
from lotune.tasks.settings import TaskSettings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TRANSLATED = [("README.md", "README.zh.md"), ("docs/tutorial.md", "docs/tutorial.zh.md")]
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


def commands(path: Path) -> list[str]:
    """The lines of a page's shell blocks, comments taken away."""
    lines = [line.partition(" #")[0].strip() for block in fenced(path, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


COMMANDS = [pytest.param(line, id=f"{page_name(path)}: {line}") for path in PAGES for line in commands(path)]


def load(path: Path, name: str) -> ModuleType:
    """A file outside the package as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def check_lotune(words: list[str]) -> None:
    """Let the command line parse a call without carrying it out, and read its settings and its shipped recipe."""
    if words[0].startswith("--"):
        assert CliRunner().invoke(app, words).exit_code == 0
        return
    group: Any = get_command(app)
    verb = group.commands[words[0]]
    if "--help" in words:
        assert CliRunner().invoke(app, words).exit_code == 0
        return
    values = verb.make_context(words[0], list(words[1:])).params
    given = values.get("overrides") or values.get("words") or []
    read_settings(Recipe, None, [word for word in given if "=" in word])
    for word in words:
        if word.startswith("recipes/"):
            assert read_recipe(ROOT / word).name


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_documentation_parses(line: str) -> None:
    program, *words = shlex.split(line)
    if program == "lotune":
        check_lotune(words)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words) <= set(targets)
    else:
        assert program.removeprefix(".venv/bin/") in ("pip", "python3", "head", "source"), "not known to this test"


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
        read_recipe(recipe)
        assert len(block.splitlines()) <= 30


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
                read_settings(Recipe, None, [span])


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_files_in_the_documentation_exist(path: Path) -> None:
    for span in spans(path):
        if re.fullmatch(r"(lotune|tests|docs|scripts|recipes)/[\w/.-]+", span) and "labels" not in span:
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
    monkeypatch.setattr(registry, "TASKS", {**registry.TASKS, "labels": module.LabelTask})
    task = registry.build_task(TaskSettings(name="labels"))
    rows = [{"text": "I liked it.", "label": "good"}, {"text": "Never again.", "label": "bad"}]
    task.write(tmp_path / "labels.jsonl", rows)
    read = task.read(tmp_path / "labels.jsonl").rows
    assert [row for _, row in read] == rows
    examples = list(task.examples(read, training=True))
    judged = [task.judge(example, example.target) for example in examples]
    assert task.metrics(judged) == {"accuracy": 1.0}
    assert task.judge(examples[0], " bad\nor good").right is False
    with pytest.raises(DataError, match="row 7"):
        list(task.examples([("row 7", {"text": "no label"})], training=False))
    with pytest.raises(SettingsError, match="no generator"):
        task.generate(1, 0)
