"""A finished run with five merged checkpoints, as the contest asks for them, and its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import RECIPE, call

FIVE = ("checkpoints.count=5", "checkpoints.spacing=even", "checkpoints.merged=all", "retention.strength=1",
        "retention.action=report")  # fmt: skip


@pytest.fixture(scope="session")
def five_checkpoints(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("five")
    recipe = folder / "five.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    call("run", recipe, f"runs={folder / 'runs'}", *FIVE)
    return folder / "runs" / "five"


@pytest.fixture(scope="session")
def bundle(five_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the run."""
    path = tmp_path_factory.mktemp("bundle") / "team.zip"
    call("bundle", five_checkpoints, "--team", "The Team", "--out", path)
    return path
