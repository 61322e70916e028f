"""The recipes that are part of the package: found by name, listed, and read as text."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes.

    >>> [name for name in recipe_names() if "-" not in name]
    ['demo', 'nano']
    """
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_file(recipe: Path) -> Path:
    """Return the file of a recipe that is given by path or by name; a file comes before a shipped recipe of its name.

    >>> recipe_file(Path("demo")) == FOLDER / "demo.yaml", recipe_file(Path("mine.yaml"))
    (True, PosixPath('mine.yaml'))
    """
    # A folder cannot be a recipe, but a pipe can.
    taken = recipe.exists() and not recipe.is_dir()
    return FOLDER / f"{recipe}.yaml" if str(recipe) in recipe_names() and not taken else recipe


def recipe_purpose(name: str) -> str:
    """Return what a shipped recipe does and how long it takes, from the comment at its head.

    >>> recipe_purpose("demo")
    'Tune nano on arithmetic with under 1 % of its parameters trained: 5 minutes on two cores.'
    """
    head, _, _ = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")
    return head.removeprefix("# ")
