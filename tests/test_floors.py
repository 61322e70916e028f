"""The order of the modules: imports run downwards only, files stay short and are named after what they do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lotune"
FLOORS = (
    ("text_display", "settings_elsewhere"),
    ("errors",),
    ("settings", "memory", "environment", "threads", "http_client"),
    ("disk_space", "settings_help", "recipes"),
    ("library_errors", "files"),
    ("fingerprints", "record_files"),
    ("runs",),
    ("console", "distributed"),
    ("data",),
    ("model", "tasks"),
    ("train", "generate", "nano"),
    ("evaluate", "arena", "synthesis"),
    ("report", "serve"),
    ("contest",),
    ("recipe",),
    ("stages",),
    ("studio",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LONGEST_MODULE = 450
NAMELESS = {"utils", "common", "helpers", "misc"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    """The room of a file: the folder or the module right below the package, "" for the package itself."""
    first = module.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def rooms_imported(tree: ast.AST, module: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of lotune in a module, those inside functions included."""
    package = ("lotune", *module.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "lotune" and len(parts) > 1 and is_room(parts[1]):
                yield node.lineno, parts[1]


def is_room(name: str) -> bool:
    return name in FLOOR or (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


def upward_arrows(source: str, module: Path) -> list[str]:
    """The imports of a module that do not run to a lower floor or stay in its own folder."""
    room = room_of(module)
    name = module.relative_to(PACKAGE.parent)
    results = []
    for line, other in rooms_imported(ast.parse(source), module):
        if other != room and FLOOR.get(other, len(FLOORS)) >= FLOOR.get(room, -1):
            results.append(f"{name}:{line} imports lotune.{other}")
    return results


def test_imports_run_downwards() -> None:
    arrows = [arrow for module in MODULES for arrow in upward_arrows(module.read_text(encoding="utf-8"), module)]
    assert not arrows, "\n".join(arrows)


LARGE = {"torch", "transformers", "peft"}
"""Libraries that take seconds to import: what refuses a recipe or reads files imports them in functions only."""
LIGHT = (
    *("cli.app", "recipe", "stages.run", "stages.prepare", "stages.tune", "stages.evaluate", "stages.pretrain"),
    *("stages.sample", "stages.init", "stages.evaluate_model", "stages.audit"),
)


def imported_at_once(module: str) -> Iterator[str]:
    """The modules and libraries that importing a module imports: at its top, not for type checking."""
    pending = list(ast.parse(path_of(module).read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if path_of(inner).exists() else node.module
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.dump(node):
            pending += node.body


def path_of(module: str) -> Path:
    place = PACKAGE.parent.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@pytest.mark.parametrize("name", LIGHT)
def test_a_recipe_can_be_refused_without_a_large_library(name: str) -> None:
    trails = [(f"lotune.{name}",)]
    for trail in trails:  # grows
        for other in imported_at_once(trail[-1]):
            assert other.partition(".")[0] not in LARGE, " -> ".join((*trail, other))
            if other.startswith("lotune") and not any(other in known for known in trails):
                trails.append((*trail, other))


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms <= set(FLOOR)


def test_modules_are_short_and_named() -> None:
    faults = []
    for module in MODULES:
        lines = len(module.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_MODULE:
            faults.append(f"{module}: {lines} lines")
        if NAMELESS & {module.stem, *module.relative_to(PACKAGE).parts}:
            faults.append(f"{module}: its name says nothing")
        if module.name == "__init__.py" and module.parent != PACKAGE and module.stat().st_size:
            faults.append(f"{module}: is not empty")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "import lotune.cli",
        "from lotune import stages",
        "from lotune.evaluate.settings import EvaluateSettings",
        "def late():\n    from ..train import loop",
        "from ..tasks.task import Example",
        "if TYPE_CHECKING:\n    from lotune.stages import run",
    ],
)
def test_an_upward_arrow_is_found(source: str) -> None:
    assert upward_arrows(source, PACKAGE / "model" / "loading.py")


@pytest.mark.parametrize(
    "source",
    [
        "import lotune",
        "from lotune import __version__",
        "from lotune.data import rows",
        "from . import settings",
        "import torch",
    ],
)
def test_a_downward_arrow_passes(source: str) -> None:
    assert upward_arrows(source, PACKAGE / "model" / "loading.py") == []


def test_no_task_is_named_outside_its_room() -> None:
    from lotune.tasks.registry import TASKS

    named = [
        f"{module.relative_to(PACKAGE)}:{node.lineno}"
        for module in MODULES
        if room_of(module)
        not in ("tasks", "nano", "data", "train", "serve", "studio")  # these have other things of such names
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TASKS
    ]
    assert named == []
