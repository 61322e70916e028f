"""Count the packages that `pip install lotune` brings, and fail above the limit.

    python scripts/core_packages.py

The dependencies are those of pyproject.toml, extras left out, and theirs are read from what is installed.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_PACKAGES = 45
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of all packages that these requirements need on this machine, directly or through others."""
    waiting = [(text, frozenset[str]()) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        text, extras = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        package = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if package not in seen:
            seen.add(package)
            waiting += [(needed, package[1]) for needed in distribution(package[0]).requires or ()]
    return {name for name, _ in seen}


def main() -> int:
    """Print the count; return 1 above the limit."""
    names = closure(tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    print(f"core install: {len(names)} packages, at most {MAX_PACKAGES}")
    if len(names) <= MAX_PACKAGES:
        return 0
    print(f"found: {', '.join(sorted(names))}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
